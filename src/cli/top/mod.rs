//! `pointsman top`: a running instance live, in the terminal.

mod column;
mod feed;
mod instance_view;
mod table;
mod ui;
mod view;

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
use crate::api::{BackendInfo, ConnectionsReply, WhyReply};
use crate::http1::encode;
use crate::remote::{Error, Remote};
use crate::task::spawn;
use instance_view::InstanceView;
use ui::{Action, Change, Mode, Ui};

/// The maximum time between two frames, so that the shown ages grow.
const TICK: Duration = Duration::from_secs(1);
/// How often the thread that reads keys checks whether its receiver is gone.
const KEY_POLL: Duration = Duration::from_millis(250);
/// The capacity of each channel: updates, keys and results.
const CAPACITY: usize = 256;
/// The most connections of a backend that are listed.
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

/// The result of an action.
enum ActionResult {
    /// A message for the last line, and whether it is an error.
    Message(String, bool),
    /// A popup: its title and lines.
    Popup(String, Vec<String>),
    /// A change that would take out the last eligible backend of its pool, and the question about it.
    Confirm(Change, String),
}

/// Shows the instance until q is pressed or a signal arrives.
async fn watch(remote: &Remote) -> Result<Exit, Failure> {
    // A mistyped address is an error on the command line, not on the screen.
    remote.text("/heartbeat").await?;
    let mut signals = Signals::new()?;
    let mut hangup = run::listen(SignalKind::hangup())?;
    let (sender, mut updates) = mpsc::channel(CAPACITY);
    let _feed = AbortOnDropHandle::new(spawn(feed::feed(remote.clone(), sender)));
    let (answered, mut answers) = mpsc::channel(CAPACITY);
    let mut instance = InstanceView::new(remote.address().to_string());
    let mut ui = Ui::default();
    let mut screen = Screen::open().map_err(|error| no_screen(&error))?;
    let mut keys = keys();
    let mut tick = tokio::time::interval(TICK);
    loop {
        ui.settle(&instance);
        screen.draw(|frame| view::draw(frame, &instance, &ui)).map_err(|error| no_screen(&error))?;
        tokio::select! {
            _ = signals.end() => return Ok(Exit::Done),
            _ = hangup.recv() => return Ok(Exit::Done),
            Some(update) = updates.recv() => {
                instance.apply(update);
                // One frame shows all pending updates.
                while let Ok(update) = updates.try_recv() {
                    instance.apply(update);
                }
            }
            Some(answer) = answers.recv() => match answer {
                ActionResult::Message(text, bad) => ui.message = Some((text, bad)),
                ActionResult::Confirm(change, question) => ui.mode = Mode::Confirm { change, question },
                ActionResult::Popup(title, lines) => ui.mode = Mode::Popup { title, lines, scroll: 0 },
            },
            key = keys.recv() => match key {
                None => return Err(no_screen(&"keys cannot be read")),
                Some(None) => {} // the terminal was resized
                Some(Some(key)) => match ui.on(key, &instance) {
                    Action::None => {}
                    Action::Quit => return Ok(Exit::Done),
                    action => {
                        let (remote, answered) = (remote.clone(), answered.clone());
                        spawn(async move {
                            let answer = act(&remote, action).await;
                            let answer =
                                answer.unwrap_or_else(|error| ActionResult::Message(on_one_line(&error), true));
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

/// The pressed keys; `None`: another event, such as a resize, that needs a new frame. A thread waits for them, as the
/// library has only a blocking call; it ends soon after the receiver is dropped.
fn keys() -> mpsc::Receiver<Option<KeyEvent>> {
    let (pressed, keys) = mpsc::channel(CAPACITY);
    std::thread::spawn(move || {
        while !pressed.is_closed() {
            let event = match event::poll(KEY_POLL) {
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
        Action::None | Action::Quit => Ok(ActionResult::Message(String::new(), false)),
        Action::Change(change) => apply(remote, change).await,
        Action::Why(of) => {
            let why: WhyReply = remote.get(&why::backend_path(&of.pool, &of.address)).await?;
            Ok(ActionResult::Popup(
                terminal::clean(&format!("why {}/{}?", of.pool, of.name)),
                why::lines(&why),
            ))
        }
        Action::Connections(of) => {
            let filters = [("pool", Some(&*of.pool)), ("backend", Some(&*of.address)), ("client", None)];
            let open: ConnectionsReply = remote.get(&connections::path(CONNECTIONS, filters)).await?;
            let title = terminal::clean(&format!("connections of {}/{}", of.pool, of.name));
            Ok(ActionResult::Popup(title, connections::lines(&open)))
        }
    }
}

/// Changes a backend, selected by its address: another one may have the same name.
async fn apply(remote: &Remote, change: Change) -> Result<ActionResult, Error> {
    let path = format!("/api/v1/pools/{}/backends/{}", encode(&change.of.pool), encode(&change.of.address));
    let now: BackendInfo = match remote.submit(Method::PATCH, &path, &change.to).await {
        Err(error) if error.is_last_eligible() => {
            // The question comes first: the line may be cut.
            let question = format!("take out {}, the last eligible backend of its pool?", change.of.text());
            return Ok(ActionResult::Confirm(change.forced(), question));
        }
        changed => remote.read(&changed?)?,
    };
    let words = format!(
        "{}/{} is {}, weight {}: {}",
        change.of.pool,
        now.name,
        now.state_name(),
        now.weight,
        now.cause
    );
    Ok(ActionResult::Message(words, false))
}

fn on_one_line(error: &Error) -> String {
    terminal::clean(&error.to_string().replace("\n ", ";"))
}
