//! `rampool doctor`: what on this machine, in its pool and on its disk stands in the way of a fast mount, and what to do about it.
//!
//! Each part looks at one thing and says what it found; nothing is changed.

mod disk;
mod machine;
mod pool;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rampool_cli::plain::plain;
use rampool_cli::show::show;
use serde::Serialize;

use crate::args::Format;
use crate::failure::Failure;

/// Look at what a mount needs, and say what to do about what is missing.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// The directory that is to be mounted: how fast its disk is
    source: Option<PathBuf>,
    /// A server, as for mount [default: that of the keys]
    #[arg(long = "server", value_name = "HOST[:PORT]")]
    servers: Vec<String>,
    /// The directory with this machine's keys [default: /etc/rampool/keys]
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// How to show it
    #[arg(short = 'w', long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// How it is with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Good,
    /// It works, and could be better.
    Warning,
    /// It does not work.
    Bad,
}

/// What was found about one thing.
#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    state: State,
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn good(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), state: State::Good, found: plain(found.into()), advice: None }
    }

    fn warning(
        what: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let advice = Some(advice.into());
        Self { what: what.into(), state: State::Warning, found: plain(found.into()), advice }
    }

    fn bad(what: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { state: State::Bad, ..Self::warning(what, found, advice) }
    }
}

/// Looks at everything, and shows it. The exit code is 1 where something does not work.
///
/// # Errors
/// It cannot be shown.
pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let mut findings = machine::look();
    let (of_pool, answers) = pool::look(&args.servers, args.keys.as_deref());
    findings.extend(of_pool);
    if let Some(source) = &args.source {
        findings.push(disk::look(source, answers));
    }
    let text = match args.format {
        Format::Table => table(&findings, std::io::stdout().is_terminal()),
        Format::Json => serde_json::to_string_pretty(&findings).map_err(Failure::system)? + "\n",
    };
    show(&text).map_err(|error| Failure::system(format!("cannot write to stdout: {error}")))?;
    let works = findings.iter().all(|finding| finding.state != State::Bad);
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(findings: &[Finding], coloured: bool) -> String {
    let width = findings.iter().map(|finding| finding.what.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { what, state, found, advice } in findings {
        let (word, colour) = match state {
            State::Good => ("ok  ", 32),
            State::Warning => ("warn", 33),
            State::Bad => ("bad ", 31),
        };
        let word = if coloured { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_owned() };
        text.push_str(&format!("{word}  {what:width$}  {found}\n"));
        if let Some(advice) = advice {
            text.push_str(&format!("{:6}{:width$}  -> {advice}\n", "", ""));
        }
    }
    text
}

/// A time that something takes.
fn in_words(time: Duration) -> String {
    match time.as_micros() {
        micros @ 0..1_000 => format!("{micros} us"),
        micros @ 1_000..10_000 => format!("{:.1} ms", micros as f64 / 1e3),
        micros => format!("{} ms", micros / 1_000),
    }
}

/// Of times in order, the one that so many percent do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_line_up_and_say_what_to_do() {
        let findings = [Finding::good("a", "fine"), Finding::bad("longer", "broken", "mend it")];
        let text = table(&findings, false);
        assert_eq!(text, "ok    a       fine\nbad   longer  broken\n              -> mend it\n");
        assert!(table(&findings, true).starts_with("\u{1b}[32mok  \u{1b}[0m  a "));
    }

    #[test]
    fn times_are_short_to_read() {
        let words = [950, 1_250, 45_600].map(|micros| in_words(Duration::from_micros(micros)));
        assert_eq!(words, ["950 us", "1.2 ms", "45 ms"]);
        let sorted: Vec<_> = (1..=100).map(Duration::from_micros).collect();
        assert_eq!(percentile(&sorted, 50), Duration::from_micros(51));
        assert_eq!(percentile(&sorted, 99), Duration::from_micros(100));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}
