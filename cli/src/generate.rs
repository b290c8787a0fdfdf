//! What is made from the definition of a command line: manuals, completions.

use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

/// Writes the pages of section 1 for `command` and its subcommands into `dir`: `name.1`, `name-sub.1`.
///
/// # Errors
/// The directory cannot be written.
pub fn manuals(command: Command, dir: &Path) -> io::Result<()> {
    clap_mangen::generate_to(command, dir)
}

/// What makes `shell` complete the command line.
pub fn completions(mut command: Command, shell: Shell) -> String {
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}
