//! Values for options from elsewhere than the command line: `-o name=value`, and files in TOML.
//!
//! What has a long option can be set by its name, with `-` or `_`. Only the definition of the command line says what
//! there is, and which values are right: settings become arguments, and all of it is parsed as one command line. What
//! stands on that goes before what a file says.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::{Spanned, Value};

/// Names that are less alike than that are not suggested.
const LIKENESS_MIN: f64 = 0.8;

/// The longest configuration that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A command line whose options can be set elsewhere too.
#[derive(Debug)]
pub struct Definition<'a> {
    /// The program's.
    pub command: Command,
    /// The subcommand whose options are meant; None for the program's own.
    pub subcommand: Option<&'a str>,
    /// Options that can only stand on the command line, by their long names.
    pub only_there: &'a [&'a str],
}

/// A value for an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    name: String,
    /// None for the name alone.
    value: Option<String>,
    /// Where it stands, for people.
    place: String,
}

/// Why a command line, or what was set elsewhere, is not understood.
#[derive(Debug)]
pub enum Refusal {
    /// The command line itself; or help, or the version, was asked for.
    Words(Box<clap::Error>),
    /// Something else: one line.
    Settings(String),
}

impl Setting {
    /// A setting as `name=value`, or `name` alone.
    pub fn from_option(option: &str) -> Self {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        Self { name: name.to_owned(), value, place: "-o".to_owned() }
    }

    /// All settings of a file.
    ///
    /// # Errors
    /// It cannot be read, or is not TOML, or a value is of a kind that no option takes.
    pub fn from_file(path: &Path) -> Result<Vec<Self>, Refusal> {
        let refuse = |why: String| Refusal::Settings(format!("{}: {why}", path.display()));
        let cannot = |error: std::io::Error| refuse(plain(&error));
        if fs::metadata(path).map_err(cannot)?.len() > FILE_BYTES_MAX {
            return Err(refuse("it is too long for a configuration".to_owned()));
        }
        let text = fs::read_to_string(path).map_err(cannot)?;
        let line = |at: usize| 1 + text[..at.min(text.len())].matches('\n').count();
        let table: BTreeMap<Spanned<String>, Value> = toml::from_str(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let why = error.message().lines().next().unwrap_or("not TOML").to_owned();
            refuse(format!("line {}: {why}", line(at)))
        })?;
        let mut settings = Vec::new();
        for (name, value) in &table {
            let place = format!("{}, line {}", path.display(), line(name.span().start));
            let values = match value {
                Value::Array(values) => values.as_slice(),
                value => std::slice::from_ref(value),
            };
            for value in values {
                let value = match value {
                    Value::String(text) => text.clone(),
                    Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => value.to_string(),
                    _ => {
                        let name = name.get_ref();
                        return Err(Refusal::Settings(format!(
                            "{place}: '{name}' takes a string, a number, true or false, or a list of strings"
                        )));
                    }
                };
                let (name, place) = (name.get_ref().clone(), place.clone());
                settings.push(Self { name, value: Some(value), place });
            }
        }
        Ok(settings)
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
        let (mut options, mut places) = (Vec::new(), Vec::new());
        for setting in settings {
            let arg = self.find(setting)?;
            // A file gives way to the command line; -o is part of that.
            if is_given(arg) && setting.place != "-o" {
                continue;
            }
            match arg.get_long() {
                Some(long) => options.extend(setting.as_option(arg, long)?),
                None => {
                    let index = self.settable().position(|one| one.get_id() == arg.get_id());
                    places.push((index, setting.as_place()?));
                }
            }
        }
        let at = match self.subcommand {
            Some(name) => 1 + words.iter().position(|word| word == name).unwrap_or(0),
            None => 1,
        };
        let mut all: Vec<OsString> = words[..at.min(words.len())].to_vec();
        all.extend(options);
        all.extend_from_slice(&words[at.min(words.len())..]);
        places.sort_unstable_by_key(|(index, _)| *index);
        all.extend(places.into_iter().map(|(_, place)| place));
        self.parse(&all).map_err(|refusal| match refusal {
            // The words alone are right.
            Refusal::Words(error) => {
                let mut places: Vec<&str> =
                    settings.iter().map(|setting| &*setting.place).collect();
                places.sort_unstable_by_key(|place| place.split(", line").next());
                places.dedup_by_key(|place| place.split(", line").next().map(str::to_owned));
                let files = places.iter().filter_map(|place| place.split(", line").next());
                let files: Vec<&str> = files.collect();
                Refusal::Settings(format!("{}: {}", files.join(" or "), one_line(&error)))
            }
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

    /// A file in which every option is explained, and commented out.
    pub fn example(&self, about: &str) -> String {
        let mut text = comment(about);
        for arg in self.settable() {
            let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string);
            let help = help.unwrap_or_default();
            let value = example_value(arg, &help);
            text += &format!("\n{}#{} = {value}\n", comment(&help), name_of(arg));
        }
        text
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
        let wanted = setting.name.replace('_', "-");
        // Source and mountpoint have words of their own where -o is used.
        let fits = |arg: &&Arg| setting.place != "-o" || !arg.is_positional();
        self.settable().filter(fits).find(|arg| name_of(arg) == wanted).ok_or_else(|| {
            let what = if setting.place == "-o" { "mount option" } else { "key" };
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
}

impl Setting {
    /// As the command line would have it.
    fn as_option(&self, arg: &Arg, long: &str) -> Result<Option<OsString>, Refusal> {
        let Self { name, value, place } = self;
        let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
        let value = value.as_deref();
        match (takes_value, value) {
            (true, Some(value)) => Ok(Some(format!("--{long}={value}").into())),
            (true, None) => Err(Refusal::Settings(format!("{place}: '{name}' needs a value"))),
            (false, None | Some("true")) => Ok(Some(format!("--{long}").into())),
            (false, Some("false")) => Ok(None),
            (false, Some(_)) => {
                Err(Refusal::Settings(format!("{place}: '{name}' is true or false")))
            }
        }
    }

    fn as_place(&self) -> Result<OsString, Refusal> {
        match self.value.as_deref() {
            // It would be taken for an option.
            Some(value) if value.starts_with('-') => Ok(format!("./{value}").into()),
            Some(value) => Ok(value.into()),
            None => {
                Err(Refusal::Settings(format!("{}: '{}' needs a value", self.place, self.name)))
            }
        }
    }
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

/// clap explains over several lines; the first part says what is wrong.
fn one_line(error: &clap::Error) -> String {
    const ENDS: [&str; 2] = ["Usage:", "For more information"];
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines = text.lines().map(str::trim);
    let wrong: Vec<_> =
        lines.take_while(|line| !ENDS.iter().any(|end| line.starts_with(end))).collect();
    let wrong = wrong.join(" ");
    let wrong: Vec<_> = wrong.split_whitespace().collect();
    format!("{} (see --help)", wrong.join(" "))
}

/// An error of the system without the number that Rust adds.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn name_of(arg: &Arg) -> &str {
    arg.get_long().unwrap_or_else(|| arg.get_id().as_str())
}

fn example_value(arg: &Arg, help: &str) -> String {
    if !matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) {
        return "true".to_owned();
    }
    let said = || help.rsplit_once("[default: ").map(|(_, rest)| rest.trim_end_matches(']'));
    let usual = arg.get_default_values().first().and_then(|value| value.to_str()).or_else(said);
    let fits = |value: &&str| !value.contains(' ');
    let named =
        arg.get_value_names().and_then(|names| names.first()).map(clap::builder::Str::as_str);
    let value = usual.filter(fits).or(named).unwrap_or_default();
    let value = match value.parse::<f64>() {
        Ok(_) => value.to_owned(),
        Err(_) => format!("{value:?}"),
    };
    if matches!(arg.get_action(), ArgAction::Append) { format!("[{value}]") } else { value }
}

/// As lines of a comment.
fn comment(text: &str) -> String {
    const WIDTH: usize = 98;
    let mut lines = vec![String::from("#")];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("it begins with one");
        if last.len() + 1 + word.len() > WIDTH {
            lines.push(format!("# {word}"));
        } else {
            *last += " ";
            *last += word;
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::path::PathBuf;

    /// It has one of each kind.
    #[derive(Debug, Parser)]
    struct Line {
        #[arg(required_unless_present = "config")]
        source: Option<PathBuf>,
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
        #[arg(short = 'o', value_delimiter = ',')]
        options: Vec<String>,
        #[arg(long)]
        config: Option<PathBuf>,
        #[arg(long, hide = true)]
        secret: bool,
    }

    fn definition() -> Definition<'static> {
        use clap::CommandFactory as _;
        Definition { command: Line::command(), subcommand: None, only_there: &["config"] }
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
        assert!(wrong("config = \"f\"").contains("unknown key"));
        assert!(wrong("quiet = 3").ends_with("'quiet' is true or false"));
        assert!(wrong("\ncache-size = ").starts_with("DIR/it.toml: line 2: "));
        assert!(wrong("[server]\nx = 1").contains("DIR/it.toml, line 1: 'server' takes a string"));
        let error = wrong("timeout = \"soon\"");
        assert!(error.contains("it.toml: invalid value 'soon' for '--timeout"), "{error}");
        assert!(!error.contains('\n'));
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
    fn what_cannot_be_read_is_no_configuration() {
        let gone = Setting::from_file(Path::new("/nowhere/it.toml")).unwrap_err().to_string();
        assert_eq!(gone, "/nowhere/it.toml: No such file or directory");
        let dir = Setting::from_file(Path::new("/tmp")).unwrap_err().to_string();
        assert_eq!(dir, "/tmp: Is a directory");
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
