//! One value for an option, from elsewhere than the command line.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction};
use toml::{Spanned, Value as Toml};

use super::{Refusal, name_of};
use crate::plain::plain;

/// The longest configuration that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A value for an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub(super) name: String,
    value: Value,
    pub(super) place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    /// The name stands alone.
    None,
    One(String),
    List(Vec<String>),
}

/// Where a setting stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Behind `-o`.
    Option,
    File {
        path: PathBuf,
        line: usize,
    },
}

impl Setting {
    /// A setting as `name=value`, or `name` alone.
    pub fn from_option(option: &str) -> Self {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Value::One(value.to_owned())),
            None => (option, Value::None),
        };
        Self { name: name.to_owned(), value, place: Place::Option }
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
        let table: BTreeMap<Spanned<String>, Toml> = toml::from_str(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let why = error.message().lines().next().unwrap_or("not TOML").to_owned();
            refuse(format!("line {}: {why}", line(at)))
        })?;
        let mut settings: Vec<Self> = Vec::new();
        let mut lines = HashMap::new();
        for (key, value) in &table {
            let (name, line) = (key.get_ref(), line(key.span().start));
            let place = Place::File { path: path.to_owned(), line };
            let value = Value::of(value).ok_or_else(|| {
                Refusal::Settings(match value {
                    Toml::Table(_) => {
                        format!("{place}: there are no tables here; write the keys without [{name}]")
                    }
                    _ => format!(
                        "{place}: '{name}' takes a string, a number, true or false, or a list of strings"
                    ),
                })
            })?;
            let setting = Self { name: name.clone(), value, place };
            if let Some(other) = lines.insert(setting.long_name(), line) {
                let (first, second) = (line.min(other), line.max(other));
                return Err(refuse(format!(
                    "'{}' is set twice, in line {first} and in line {second}",
                    setting.long_name()
                )));
            }
            settings.push(setting);
        }
        Ok(settings)
    }

    /// As long options are written.
    pub(super) fn long_name(&self) -> String {
        self.name.replace('_', "-")
    }

    pub(super) fn is_option(&self) -> bool {
        self.place == Place::Option
    }

    /// As the command line would have it.
    pub(super) fn as_words(&self, arg: &Arg) -> Result<Vec<OsString>, Refusal> {
        let option = |value: &String| format!("--{}={value}", name_of(arg)).into();
        let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
        match (takes_value, &self.value) {
            (true, Value::None) => Err(self.refuse("needs a value")),
            (true, Value::List(_)) if !matches!(arg.get_action(), ArgAction::Append) => {
                Err(self.refuse("takes one value, and not a list"))
            }
            // It would be taken for an option.
            (true, Value::One(value)) if arg.is_positional() && value.starts_with('-') => {
                Ok(vec![format!("./{value}").into()])
            }
            (true, Value::One(value)) if arg.is_positional() => Ok(vec![value.into()]),
            (true, Value::One(value)) => Ok(vec![option(value)]),
            (true, Value::List(values)) => Ok(values.iter().map(option).collect()),
            (false, Value::None) => Ok(vec![format!("--{}", name_of(arg)).into()]),
            (false, Value::One(value)) if value == "true" => {
                Ok(vec![format!("--{}", name_of(arg)).into()])
            }
            (false, Value::One(value)) if value == "false" => Ok(Vec::new()),
            (false, _) => Err(self.refuse("is true or false")),
        }
    }

    pub(super) fn refuse(&self, why: &str) -> Refusal {
        Refusal::Settings(format!("{}: '{}' {why}", self.place, self.name))
    }
}

impl Value {
    fn of(value: &Toml) -> Option<Self> {
        let text = |value: &Toml| match value {
            Toml::String(text) => Some(text.clone()),
            Toml::Integer(_) | Toml::Float(_) | Toml::Boolean(_) => Some(value.to_string()),
            _ => None,
        };
        match value {
            Toml::Array(values) => {
                Some(Self::List(values.iter().map(text).collect::<Option<_>>()?))
            }
            value => text(value).map(Self::One),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option => f.write_str("-o"),
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_no_configuration() {
        let gone = Setting::from_file(Path::new("/nowhere/it.toml")).unwrap_err().to_string();
        assert_eq!(gone, "/nowhere/it.toml: No such file or directory");
        let dir = Setting::from_file(Path::new("/tmp")).unwrap_err().to_string();
        assert_eq!(dir, "/tmp: Is a directory");
    }
}
