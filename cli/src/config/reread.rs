//! A configuration that is read again while it holds.

use clap::ArgMatches;

use super::Definition;

/// What a running program has read of its configuration.
#[derive(Debug)]
pub struct Reread {
    /// What can change in a running program, by long names.
    live: &'static [&'static str],
    /// When the rest changes, for people.
    later: &'static str,
    started_with: ArgMatches,
    last: ArgMatches,
}

impl Reread {
    /// Of a program that has started with `line`. All but the options in `live` wait for `later`.
    pub fn new(line: &ArgMatches, live: &'static [&'static str], later: &'static str) -> Self {
        Self { live, later, started_with: line.clone(), last: line.clone() }
    }

    /// Takes note that `line` holds from now on, as far as it can, and says in the log what it changes and what has to wait.
    pub fn note(&mut self, definition: &Definition<'_>, line: &ArgMatches) {
        let (changed, waiting) = self.changes(definition, line);
        if changed.is_empty() {
            tracing::info!("read the configuration again: nothing to change");
        } else {
            tracing::info!("read the configuration again, and changed {}", changed.join(", "));
        }
        if !waiting.is_empty() {
            tracing::warn!("{} will change {}", waiting.join(", "), self.later);
        }
        self.last = line.clone();
    }

    /// What changes against what was read last, and what waits since the start.
    fn changes<'a>(
        &self,
        definition: &'a Definition<'_>,
        line: &ArgMatches,
    ) -> (Vec<&'a str>, Vec<&'a str>) {
        let is_live = |name: &&str| self.live.contains(name);
        let mut changed = definition.differences(&self.last, line);
        changed.retain(is_live);
        let mut waiting = definition.differences(&self.started_with, line);
        waiting.retain(|name| !is_live(name));
        (changed, waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, Command};
    use std::ffi::OsString;

    #[test]
    fn what_waits_is_told_each_time_and_what_has_changed_once() {
        let option = |name: &'static str| Arg::new(name).long(name);
        let command = Command::new("x").arg(option("log")).arg(option("size"));
        let definition = Definition { command, subcommand: None, only_there: &[], adding: &[] };
        let line = |words: &str| {
            let words: Vec<OsString> = words.split(' ').map(Into::into).collect();
            definition.parse(&words).unwrap()
        };
        let mut reread = Reread::new(&line("x"), &["log"], "later");
        for (words, changed, waiting) in [
            ("x", "", ""),
            ("x --log=a --size=2", "log", "size"),
            ("x --log=a --size=2", "", "size"),
            ("x --log=b --size=3", "log", "size"),
            ("x --log=b", "", ""),
            ("x", "log", ""),
        ] {
            let line = line(words);
            let (is_changed, is_waiting) = reread.changes(&definition, &line);
            assert_eq!(
                (is_changed.join(" "), is_waiting.join(" ")),
                (changed.into(), waiting.into()),
                "{words}"
            );
            reread.note(&definition, &line);
        }
    }
}
