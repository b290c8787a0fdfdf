//! Values for options from elsewhere than the command line: `-o name=value`, and files in TOML.
//!
//! What has a long option can be set by its name, with `-` or `_`. Only the definition of the command line says what
//! there is, and which values are right: settings become arguments, and all of it is parsed as one command line. What
//! stands on that goes before what a file says.

mod example;
mod reread;
mod setting;

use std::ffi::OsString;
use std::fmt;

use clap::error::{ContextKind, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

pub use reread::Reread;
pub use setting::Setting;

/// Names that are less alike than that are not suggested.
const LIKENESS_MIN: f64 = 0.8;

/// A command line whose options can be set elsewhere too.
#[derive(Debug)]
pub struct Definition<'a> {
    /// The program's.
    pub command: Command,
    /// The subcommand whose options are meant; None for the program's own.
    pub subcommand: Option<&'a str>,
    /// Options that can only stand on the command line, by their long names.
    pub only_there: &'a [&'a str],
    /// Options of which the command line's values are added to those of a file.
    pub adding: &'a [&'a str],
}

/// What a command line says, with what was set elsewhere.
#[derive(Debug)]
pub struct Line<T> {
    /// As the program has defined it.
    pub said: T,
    /// As clap has it.
    pub matches: ArgMatches,
}

/// Why a command line, or what was set elsewhere, is not understood.
#[derive(Debug)]
pub enum Refusal {
    /// The command line itself; or help, or the version, was asked for.
    Words(Box<clap::Error>),
    /// Something else: one line.
    Settings(String),
}

impl<T: FromArgMatches> Line<T> {
    /// What `matches` say.
    ///
    /// # Errors
    /// They are another command line's.
    pub fn new(matches: ArgMatches) -> Result<Self, Refusal> {
        let said = T::from_arg_matches(&matches);
        Ok(Self { said: said.map_err(|error| Refusal::Words(Box::new(error)))?, matches })
    }
}

impl Definition<'_> {
    /// Parses a command line alone. It may lack what is required where it names a file that has it.
    ///
    /// # Errors
    /// It is not understood, or asks for help.
    pub fn parse(&self, words: &[OsString]) -> Result<ArgMatches, Refusal> {
        let command = self.command.clone().args_override_self(true);
        command.try_get_matches_from(words).map_err(|error| Refusal::Words(Box::new(error)))
    }

    /// Parses a command line, `given` being what it is alone, with what was set elsewhere.
    ///
    /// # Errors
    /// A name is unknown, or a value not right.
    pub fn parse_with(
        &self,
        words: &[OsString],
        given: &ArgMatches,
        settings: &[Setting],
    ) -> Result<ArgMatches, Refusal> {
        let own = match self.subcommand {
            Some(name) => given.subcommand_matches(name).unwrap_or(given),
            None => given,
        };
        let is_given =
            |arg: &Arg| own.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        // A file gives way to the command line, of which -o is part.
        let gives_way = |setting: &Setting, arg: &Arg| {
            let behind_o = || {
                let options = settings.iter().filter(|other| other.is_option());
                options.map(Setting::long_name).any(|name| name == name_of(arg))
            };
            !setting.is_option()
                && !self.adding.contains(&name_of(arg))
                && (is_given(arg) || behind_o())
        };
        let (mut options, mut places) = (Vec::new(), Vec::new());
        for setting in settings {
            let arg = self.find(setting)?;
            let words = setting.as_words(arg)?;
            match arg.is_positional() {
                _ if gives_way(setting, arg) => {}
                true => places.push((arg.get_id(), setting, words)),
                false => options.extend(words),
            }
        }
        let at = match self.subcommand {
            Some(name) => 1 + words.iter().position(|word| word == name).unwrap_or(0),
            None => 1,
        };
        let mut all: Vec<OsString> = words[..at.min(words.len())].to_vec();
        all.extend(options);
        all.extend_from_slice(&words[at.min(words.len())..]);
        let mut lacks = None;
        for arg in self.settable().filter(|arg| arg.is_positional()) {
            match places.iter_mut().find(|(id, ..)| *id == arg.get_id()) {
                Some((_, setting, words)) => match lacks {
                    Some(other) => {
                        return Err(setting.refuse(&format!("needs '{other}' as well")));
                    }
                    None => all.append(words),
                },
                None if !is_given(arg) => lacks = Some(name_of(arg)),
                None => {}
            }
        }
        self.parse(&all).map_err(|refusal| match refusal {
            // The words alone are right.
            Refusal::Words(error) => self.blame(settings, &error),
            other => other,
        })
    }

    /// The options that two command lines, both as [`Self::parse_with`] gave them, set differently: by their long names.
    pub fn differences(&self, one: &ArgMatches, other: &ArgMatches) -> Vec<&str> {
        let raw = |matches: &ArgMatches, arg: &Arg| {
            let own = self.subcommand.and_then(|name| matches.subcommand_matches(name));
            let values = own.unwrap_or(matches).get_raw(arg.get_id().as_str());
            let values: Vec<OsString> = values.into_iter().flatten().map(Into::into).collect();
            values
        };
        let differs = |arg: &&Arg| raw(one, arg) != raw(other, arg);
        self.settable().filter(differs).map(name_of).collect()
    }

    /// The names that a file can have.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.settable().map(name_of)
    }

    fn settable(&self) -> impl Iterator<Item = &Arg> {
        let own = self.subcommand.and_then(|name| self.command.find_subcommand(name));
        own.unwrap_or(&self.command).get_arguments().filter(|arg| {
            let is_of_clap = matches!(
                arg.get_action(),
                ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
            );
            let is_only_there = || self.only_there.contains(&name_of(arg));
            let has_name = arg.get_long().is_some() || arg.is_positional();
            has_name && !is_of_clap && !arg.is_hide_set() && !is_only_there()
        })
    }

    fn find(&self, setting: &Setting) -> Result<&Arg, Refusal> {
        let wanted = setting.long_name();
        // Source and mountpoint have words of their own where -o is used.
        let fits = |arg: &&Arg| !setting.is_option() || !arg.is_positional();
        self.settable().filter(fits).find(|arg| name_of(arg) == wanted).ok_or_else(|| {
            if self.only_there.contains(&&*wanted) {
                return setting.refuse("can only stand on the command line");
            }
            let what = if setting.is_option() { "mount option" } else { "key" };
            let suggestion = match nearest(&wanted, self.settable().filter(fits).map(name_of)) {
                Some(name) => format!("; did you mean '{name}'?"),
                None => String::new(),
            };
            Refusal::Settings(format!(
                "{}: unknown {what} '{}'{suggestion}",
                setting.place, setting.name
            ))
        })
    }

    /// What is wrong with one of the settings, with its place.
    fn blame(&self, settings: &[Setting], error: &clap::Error) -> Refusal {
        let meant = error.get(ContextKind::InvalidArg).map(ToString::to_string);
        let meant = meant.as_deref().and_then(|arg| arg.split(' ').next()).unwrap_or_default();
        let is_meant =
            |setting: &&Setting| meant.strip_prefix("--") == Some(setting.long_name().as_str());
        Refusal::Settings(match settings.iter().rfind(is_meant) {
            Some(setting) => format!("{}: {}", setting.place, one_line(error)),
            None => one_line(error),
        })
    }
}

impl Refusal {
    /// Says it, as one line of `program`; or shows the help or the version that was asked for. Whether that is all that
    /// was asked for.
    pub fn tell(&self, program: &str) -> bool {
        match self {
            Self::Words(error) if !error.use_stderr() || is_help(error) => {
                // Fails only if there is nobody to read it.
                let _ = error.print();
                !error.use_stderr()
            }
            _ => {
                crate::say!("{program}: {self}");
                false
            }
        }
    }
}

/// Whether it shows what there is, because nothing was asked for.
fn is_help(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(error) => f.write_str(&one_line(error)),
            Self::Settings(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Refusal {}

/// The name that is most like the one that was meant, if any is.
pub fn nearest<'a>(meant: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |name: &str| strsim::jaro_winkler(meant, name);
    names
        .filter(|name| likeness(name) >= LIKENESS_MIN)
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

/// clap explains in paragraphs, and shows the usage behind them.
fn one_line(error: &clap::Error) -> String {
    const ENDS: [&str; 2] = ["Usage:", "For more information"];
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let paragraphs = text.split("\n\n").map(str::trim);
    let wrong = paragraphs.take_while(|part| !ENDS.iter().any(|end| part.starts_with(end)));
    let wrong = wrong.map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
    let wrong = wrong.map(|part| part.trim_start_matches("tip: ").to_owned());
    let wrong: Vec<_> = wrong.filter(|part| !part.is_empty()).collect();
    format!("{} (see --help)", wrong.join("; "))
}

fn name_of(arg: &Arg) -> &str {
    arg.get_long().unwrap_or_else(|| arg.get_id().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::fs;
    use std::path::PathBuf;

    /// It has one of each kind.
    #[derive(Debug, Parser)]
    struct Line {
        #[arg(required_unless_present = "config")]
        source: Option<PathBuf>,
        target: Option<PathBuf>,
        /// Memory [default: 1G]
        #[arg(long)]
        cache_size: Option<String>,
        /// Whom to ask
        #[arg(long = "server", value_name = "HOST")]
        servers: Vec<String>,
        /// Seconds
        #[arg(long)]
        timeout: Option<f64>,
        /// Not at all
        #[arg(long)]
        quiet: bool,
        #[arg(short = 'o', long, value_delimiter = ',')]
        options: Vec<String>,
        #[arg(long)]
        config: Option<PathBuf>,
        #[arg(long, hide = true)]
        secret: bool,
    }

    fn definition() -> Definition<'static> {
        use clap::CommandFactory as _;
        Definition {
            command: Line::command(),
            subcommand: None,
            only_there: &["config"],
            adding: &["options"],
        }
    }

    fn parse(words: &str, settings: &[Setting]) -> Result<Line, String> {
        use clap::FromArgMatches as _;
        let words: Vec<OsString> = words.split(' ').map(Into::into).collect();
        let definition = definition();
        let told = |refusal: Refusal| refusal.to_string();
        let given = definition.parse(&words).map_err(told)?;
        let all = definition.parse_with(&words, &given, settings).map_err(told)?;
        Ok(Line::from_arg_matches(&all).unwrap())
    }

    fn file(text: &str) -> Result<Vec<Setting>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.toml");
        fs::write(&path, text).unwrap();
        let told =
            |refusal: Refusal| refusal.to_string().replace(&*dir.path().to_string_lossy(), "DIR");
        Setting::from_file(&path).map_err(told)
    }

    const TEXT: &str = "cache_size = \"2G\"\nserver = [\"a\", \"b\"]\nquiet = true\ntimeout = 2\nsource = \"/s\"\n";

    #[test]
    fn a_file_says_what_the_command_line_does_not() {
        let settings = file(TEXT).unwrap();
        let line = parse("x --config f", &settings).unwrap();
        assert_eq!(line.cache_size.as_deref(), Some("2G"));
        assert_eq!((line.servers, line.quiet), (vec!["a".to_owned(), "b".to_owned()], true));
        assert_eq!((line.timeout, line.source), (Some(2.0), Some("/s".into())));
        let line = parse("x /t --config f --server c --cache-size 3G", &settings).unwrap();
        assert_eq!((line.servers, line.source), (vec!["c".to_owned()], Some("/t".into())));
        assert_eq!((line.cache_size.as_deref(), line.timeout), (Some("3G"), Some(2.0)));
        assert!(!parse("x /t", &file("quiet = false").unwrap()).unwrap().quiet);
    }

    #[test]
    fn an_option_is_as_good_as_a_word() {
        let set = ["cache_size=5G", "server=x", "quiet"].map(Setting::from_option);
        let line = parse("x /s --server y", &set).unwrap();
        assert_eq!((line.cache_size.as_deref(), line.quiet), (Some("5G"), true));
        assert_eq!(line.servers, ["x", "y"]);
    }

    #[test]
    fn options_of_a_file_and_of_the_line_add_up_and_the_rest_does_not() {
        let settings = file("options = [\"ro\", \"nosuid\"]\nserver = [\"a\", \"b\"]").unwrap();
        let line = parse("x /s --config f -o rw,nodev", &settings).unwrap();
        assert_eq!(line.options, ["ro", "nosuid", "rw", "nodev"]);
        assert_eq!(line.servers, ["a", "b"]);
        let with_option = [settings, vec![Setting::from_option("server=c")]].concat();
        assert_eq!(parse("x /s --config f", &with_option).unwrap().servers, ["c"]);
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line_with_its_place() {
        let wrong = |text: &str| match file(text) {
            Ok(settings) => parse("x /s", &settings).unwrap_err().replace(", line", " line"),
            Err(error) => error,
        };
        assert!(wrong("a = 1\n\ncach-size = 2").contains("unknown key"));
        assert!(
            wrong("cach-size = 2")
                .ends_with("line 1: unknown key 'cach-size'; did you mean 'cache-size'?")
        );
        assert!(wrong("secret = true").contains("unknown key"));
        assert!(wrong("config = \"f\"").contains("can only stand on the command line"));
        assert!(wrong("quiet = 3").ends_with("'quiet' is true or false"));
        assert!(wrong("\ncache-size = ").starts_with("DIR/it.toml: line 2: "));
        assert!(wrong("[server]\nx = 1").contains(
            "DIR/it.toml, line 1: there are no tables here; write the keys without [server]"
        ));
        let error = wrong("timeout = \"soon\"");
        assert!(error.contains("it.toml line 1: invalid value 'soon' for '--timeout"), "{error}");
        assert!(!error.contains('\n'));
        assert!(wrong("timeout = [1, 2]").ends_with("'timeout' takes one value, and not a list"));
        assert!(wrong("nonsense = []").contains("unknown key 'nonsense'"));
        assert_eq!(
            wrong("cache_size = 1\n\ncache-size = 2"),
            "DIR/it.toml: 'cache-size' is set twice, in line 1 and in line 3"
        );
        let alone = parse("x --config f", &file("target = \"/t\"").unwrap()).unwrap_err();
        assert!(alone.ends_with("line 1: 'target' needs 'source' as well"), "{alone}");
        for (option, why) in [
            ("cache_size", "-o: 'cache_size' needs a value"),
            ("quiet=1", "-o: 'quiet' is true or false"),
            ("qiet", "-o: unknown mount option 'qiet'; did you mean 'quiet'?"),
            ("source=/s", "-o: unknown mount option 'source'"),
        ] {
            let error = parse("x /s", &[Setting::from_option(option)]).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }

    #[test]
    fn what_is_set_differently_is_found() {
        let words = ["x", "/s", "--server", "y"].map(OsString::from);
        let definition = definition();
        let given = definition.parse(&words).unwrap();
        let with =
            |text: &str| definition.parse_with(&words, &given, &file(text).unwrap()).unwrap();
        let one = with("cache-size = '1G'\nserver = ['a']");
        assert_eq!(definition.differences(&one, &one), [""; 0]);
        let other = with("cache-size = '2G'\nserver = ['b']\nquiet = true");
        assert_eq!(definition.differences(&one, &other), ["cache-size", "quiet"]);
    }

    #[test]
    fn every_line_of_the_example_is_right_when_it_is_no_comment() {
        let example = definition().example("Settings.");
        assert!(example.contains("\n# Memory [default: 1G]\n#cache-size = \"1G\"\n"), "{example}");
        assert!(example.contains("#server = [\"HOST\"]\n") && example.contains("#quiet = true\n"));
        let lines = example.lines().filter_map(|line| line.strip_prefix('#'));
        let set: Vec<&str> =
            lines.filter(|line| !line.is_empty() && !line.starts_with(' ')).collect();
        assert_eq!(set.len(), definition().names().count());
        let text = set.join("\n").replace("\"TIMEOUT\"", "1");
        parse("x --config f", &file(&text).unwrap()).unwrap();
    }
}
