//! `pointsman top`: a running instance live, in the terminal.

mod column;
mod feed;
mod table;
mod ui;
mod view;
mod world;

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use hyper::Method;
use ratatui::crossterm::event::{self, Event, KeyEvent};
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::instance::{RemoteArgs, block_on};
use super::run::{self, Signals};
use super::terminal::{self, Screen};
use super::{Exit, Failure, connections, why};
use crate::api::{BackendChange, BackendInfo, ConnectionsReply, WhyReply};
use crate::remote::{Error, Remote, encode};
use ui::{Action, Mode, Ui};
use world::{BackendKey, InstanceView};

/// Drawn at least so often: ages grow.
const TICK: Duration = Duration::from_secs(1);
/// How often it is seen to that the thread which waits for keys is still needed.
const KEYS: Duration = Duration::from_millis(250);
/// InstanceNews, keys and answers that may wait.
const WAITING: usize = 256;
/// Connections of a backend that are shown.
const CONNECTIONS: u32 = 200;

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    remote: RemoteArgs,
}

pub(super) fn run(args: &TopArgs) -> Result<Exit, Failure> {
    let remote = args.remote.remote()?;
    if args.remote.json {
        return block_on(feed::as_lines(&remote));
    }
    if !io::stdout().is_terminal() {
        return Err(Failure::Invalid(
            "top needs a terminal to draw on: see `pointsman status`, or `pointsman top --json` for one line a second"
                .to_owned(),
        ));
    }
    block_on(watch(&remote))
}

/// What came of an action.
enum ActionResult {
    /// It is done, or not, and what there is to say.
    Said(String, bool),
    /// Something to read.
    Told(String, Vec<String>),
}

/// Shows the instance until q is pressed or a signal comes.
async fn watch(remote: &Remote) -> Result<Exit, Failure> {
    // A mistyped address is an error on the command line, not on the screen.
    remote.text("/heartbeat").await?;
    let mut signals = Signals::new()?;
    let mut hangup = run::listen(SignalKind::hangup())?;
    let (told, mut news) = mpsc::channel(WAITING);
    let _feed = AbortOnDropHandle::new(tokio::spawn(feed::feed(remote.clone(), told)));
    let (answered, mut answers) = mpsc::channel(WAITING);
    let mut world = InstanceView::new(remote.address().to_string());
    let mut ui = Ui::default();
    let mut screen = Screen::open().map_err(|error| no_screen(&error))?;
    let mut keys = keys();
    let mut tick = tokio::time::interval(TICK);
    loop {
        ui.settle(&world);
        screen.draw(|frame| view::draw(frame, &world, &ui)).map_err(|error| no_screen(&error))?;
        tokio::select! {
            _ = signals.end() => return Ok(Exit::Done),
            _ = hangup.recv() => return Ok(Exit::Done),
            Some(one) = news.recv() => {
                world.take(one);
                // Whatever else has come is drawn with it.
                while let Ok(one) = news.try_recv() {
                    world.take(one);
                }
            }
            Some(answer) = answers.recv() => match answer {
                ActionResult::Said(text, bad) => ui.message = Some((text, bad)),
                ActionResult::Told(title, lines) => ui.mode = Mode::Popup { title, lines, scroll: 0 },
            },
            key = keys.recv() => match key {
                None => return Err(no_screen(&"no key can be read")),
                Some(None) => {} // another size
                Some(Some(key)) => match ui.on(key, &world) {
                    Action::None => {}
                    Action::Quit => return Ok(Exit::Done),
                    action => {
                        let (remote, answered) = (remote.clone(), answered.clone());
                        tokio::spawn(async move {
                            let answer = act(&remote, action).await;
                            let answer = answer.unwrap_or_else(|error| ActionResult::Said(in_a_line(&error), true));
                            let _ = answered.send(answer).await;
                        });
                    }
                }
            },
            _ = tick.tick() => {}
        }
    }
}

fn no_screen(error: &impl std::fmt::Display) -> Failure {
    Failure::NotStarted(format!("the terminal cannot be used: {error}; see `pointsman status`"))
}

/// The keys as they are pressed, and nothing for what else is a reason to draw. They are waited for in a thread, as the
/// library has no other way; it ends soon after the receiver is gone.
fn keys() -> mpsc::Receiver<Option<KeyEvent>> {
    let (pressed, keys) = mpsc::channel(WAITING);
    std::thread::spawn(move || {
        while !pressed.is_closed() {
            let event = match event::poll(KEYS) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let key = match event {
                Ok(Event::Key(key)) => Some(key),
                Ok(_) => None,
                Err(_) => return,
            };
            if pressed.blocking_send(key).is_err() {
                return;
            }
        }
    });
    keys
}

async fn act(remote: &Remote, action: Action) -> Result<ActionResult, Error> {
    match action {
        Action::None | Action::Quit => Ok(ActionResult::Said(String::new(), false)),
        Action::SetState { of, state } => {
            change(remote, &of, BackendChange { state: Some(state), weight: None }).await
        }
        Action::SetWeight { of, weight } => {
            change(remote, &of, BackendChange { state: None, weight: Some(weight) }).await
        }
        Action::Why(of) => {
            let why: WhyReply = remote.get(&why::backend_path(&of.pool, &of.address)).await?;
            Ok(ActionResult::Told(
                terminal::clean(&format!("why {}/{}?", of.pool, of.name)),
                why::lines(&why),
            ))
        }
        Action::Connections(of) => {
            let filters = [("pool", Some(&*of.pool)), ("backend", Some(&*of.address)), ("client", None)];
            let open: ConnectionsReply = remote.get(&connections::path(CONNECTIONS, filters)).await?;
            let title = terminal::clean(&format!("connections of {}/{}", of.pool, of.name));
            Ok(ActionResult::Told(title, connections::lines(&open)))
        }
    }
}

/// Makes a change of a backend. It is named by its address: another may have the same name.
async fn change(remote: &Remote, of: &BackendKey, change: BackendChange) -> Result<ActionResult, Error> {
    let path = format!("/api/v1/pools/{}/backends/{}", encode(&of.pool), encode(&of.address));
    let now: BackendInfo = remote.read(&remote.submit(Method::PATCH, &path, &change).await?)?;
    let words =
        format!("{}/{} is {}, weight {}: {}", of.pool, now.name, now.state_name(), now.weight, now.cause);
    Ok(ActionResult::Said(words, false))
}

fn in_a_line(error: &Error) -> String {
    terminal::clean(&error.to_string().replace("\n ", ";"))
}
