//! `rampool top`: what a mount does now, by layer; who lends to it; and what this machine lends itself.
//!
//! Once a second the daemons' documents are read anew, as `rampool status` reads them; `screen.rs` draws what has changed.

mod screen;

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rampool_cli::status::{directory, fetch};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use serde_json::Value;

use crate::failure::Failure;
use crate::stats::{Seen, look};

/// Where the unit of the server has its socket.
const SERVICE_DIRECTORY: &str = "/run/rampool-server";

/// The share of reads that memory answered is shown for so many seconds.
const HISTORY: usize = 120;

/// Watch what mounts do, on a live screen.
#[derive(Debug, clap::Args)]
pub(crate) struct TopArgs {
    /// The mount to begin with
    mountpoint: Option<PathBuf>,
}

/// All that is shown.
#[derive(Default)]
struct View {
    mounts: Vec<Watched>,
    /// Which mount is shown.
    chosen: usize,
    /// What a server on this machine says.
    lender: Option<Value>,
    is_paused: bool,
}

/// A mount, as it is and as it was a moment ago.
struct Watched {
    name: String,
    before: Option<Seen>,
    now: Seen,
    /// Shares of reads that memory answered, of the last seconds; none without reads.
    hits: VecDeque<Option<f64>>,
}

/// Shows it until somebody presses q.
pub(crate) fn run(args: &TopArgs) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        return Err(Failure::usage("top needs a terminal; 'rampool stats' is for scripts"));
    }
    let mut view = View::default();
    view.look()?;
    if let Some(path) = &args.mountpoint {
        let found = std::fs::canonicalize(path)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        let is_it = |watched: &Watched| Path::new(&watched.name) == found;
        view.chosen = view.mounts.iter().position(is_it).ok_or_else(|| {
            Failure::usage(format!("no rampool of this user is mounted at {}", path.display()))
        })?;
    }
    let mut terminal = ratatui::try_init()
        .map_err(|error| Failure::system(format!("the terminal does not answer: {error}")))?;
    let watched = watch(&mut terminal, &mut view);
    ratatui::restore();
    watched
}

fn watch(terminal: &mut DefaultTerminal, view: &mut View) -> Result<(), Failure> {
    let broken = |error: std::io::Error| Failure::system(format!("the terminal is gone: {error}"));
    let mut next = Instant::now() + Duration::from_secs(1);
    loop {
        terminal.draw(|frame| screen::draw(frame, view)).map_err(broken)?;
        if event::poll(next.saturating_duration_since(Instant::now())).map_err(broken)? {
            if let Event::Key(key) = event::read().map_err(broken)?
                && key.kind == KeyEventKind::Press
            {
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if key.modifiers == KeyModifiers::CONTROL => return Ok(()),
                    KeyCode::Char(' ') => view.is_paused = !view.is_paused,
                    KeyCode::Down | KeyCode::Right | KeyCode::Tab => view.choose(1),
                    KeyCode::Up | KeyCode::Left | KeyCode::BackTab => view.choose(-1),
                    _ => {}
                }
            }
            continue;
        }
        next = Instant::now() + Duration::from_secs(1);
        if !view.is_paused {
            view.look()?;
        }
    }
}

impl View {
    /// Reads all documents anew.
    fn look(&mut self) -> Result<(), Failure> {
        let chosen = self.mounts.get(self.chosen).map(|watched| watched.name.clone());
        let mut earlier = std::mem::take(&mut self.mounts);
        for (name, now) in look(None)? {
            let place = earlier.iter().position(|watched| watched.name == name);
            let (before, mut hits) = match place {
                Some(place) => {
                    let watched = earlier.swap_remove(place);
                    (Some(watched.now), watched.hits)
                }
                None => (None, VecDeque::new()),
            };
            if let Some(before) = &before {
                if hits.len() == HISTORY {
                    hits.pop_front();
                }
                hits.push_back(crate::stats::Stats::between(before, &now).hits());
            }
            self.mounts.push(Watched { name, before, now, hits });
        }
        let is_chosen = |watched: &Watched| Some(&watched.name) == chosen.as_ref();
        self.chosen = self.mounts.iter().position(is_chosen).unwrap_or(0);
        self.lender = lender();
        Ok(())
    }

    fn choose(&mut self, step: isize) {
        let count = self.mounts.len().max(1) as isize;
        self.chosen = (self.chosen as isize + step).rem_euclid(count) as usize;
    }
}

/// What a server on this machine says, if there is one that this user may ask.
fn lender() -> Option<Value> {
    let own = directory(rustix::process::geteuid().as_raw());
    let sockets = [own, PathBuf::from(SERVICE_DIRECTORY)].into_iter().flat_map(|dir| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path())
    });
    let is_servers = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("server-"))
    };
    sockets.filter(is_servers).find_map(|socket| serde_json::from_str(&fetch(&socket).ok()?).ok())
}
