//! What is made from the definition of a command line: manuals, completions, the example of a configuration, and the table of metrics.

use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;

use crate::config::Definition;
use crate::metrics::{self, Metric};
use crate::show::show;

/// What to write.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Generate {
    /// Manual pages, into DIR
    Man {
        /// A directory that is there
        dir: PathBuf,
    },
    /// Completions for a shell, to stdout
    Completions {
        /// The shell
        shell: Shell,
    },
    /// A configuration in which every key is explained, to stdout
    Config,
    /// What each metric means, as a table in Markdown, to stdout
    Metrics,
}

/// Why it could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Unwritten {
    /// Into a directory that was named.
    #[error("cannot write into {}: {_1}", _0.display())]
    Into(PathBuf, io::Error),
    /// To stdout.
    #[error("cannot write to stdout: {_0}")]
    ToStdout(io::Error),
}

impl Generate {
    /// Writes it for a program that is defined so, whose configuration begins with `about`.
    ///
    /// # Errors
    /// The directory cannot be written, or stdout.
    pub fn run(
        &self,
        definition: Definition<'_>,
        about: &str,
        metrics: &[Metric],
    ) -> Result<(), Unwritten> {
        let text = match self {
            Self::Man { dir } => {
                return manuals(definition.command, dir)
                    .map_err(|error| Unwritten::Into(dir.clone(), error));
            }
            Self::Completions { shell } => completions(definition.command, *shell),
            Self::Config => definition.example(about),
            Self::Metrics => metrics::table(metrics),
        };
        show(&text).map_err(Unwritten::ToStdout)
    }
}

/// Writes the pages of section 1 for `command` and its subcommands into `dir`: `name.1`, `name-sub.1`.
fn manuals(command: Command, dir: &Path) -> io::Result<()> {
    clap_mangen::generate_to(command, dir)
}

/// What makes `shell` complete the command line.
fn completions(mut command: Command, shell: Shell) -> String {
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}
