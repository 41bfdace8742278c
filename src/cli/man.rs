//! `pointsman man`: the manual pages.

use std::path::Path;

use clap::CommandFactory;

use super::{Cli, Exit, Failure, print};

pub(super) fn run(directory: Option<&Path>) -> Result<Exit, Failure> {
    let Some(directory) = directory else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
        rendered
            .map_err(|error| Failure::NotStarted(format!("the manual page cannot be rendered: {error}")))?;
        return print(&String::from_utf8_lossy(&page));
    };
    let failed = |error| {
        Failure::NotStarted(format!("the manual pages cannot be written to {}: {error}", directory.display()))
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(failed)?;
    Ok(Exit::Done)
}
