//! Files in which every option is explained.

use clap::builder::{PossibleValue, Str};
use clap::{Arg, ArgAction};

use super::{Definition, name_of};

/// Lines of comments are at most so long.
const WIDTH: usize = 98;

impl Definition<'_> {
    /// A file in which every option is explained, and commented out.
    pub fn example(&self, about: &str) -> String {
        let mut text = comment(about);
        for arg in self.settable() {
            let help = explained(arg);
            let value = value(arg, &help);
            text += &format!("\n{}#{} = {value}\n", comment(&help), name_of(arg));
        }
        text
    }
}

/// What `--help` says of it.
fn explained(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string);
    let mut help = help.unwrap_or_default();
    if let Some(usual) = usual(arg) {
        help += &format!(" [default: {usual}]");
    }
    let values = arg.get_possible_values();
    let values: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
    if takes_value(arg) && !values.is_empty() {
        help += &format!(" [possible values: {}]", values.join(", "));
    }
    help
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

fn usual(arg: &Arg) -> Option<&str> {
    arg.get_default_values().first().filter(|_| takes_value(arg)).and_then(|value| value.to_str())
}

fn value(arg: &Arg, help: &str) -> String {
    if !takes_value(arg) {
        return "true".to_owned();
    }
    let said = || {
        let (_, rest) = help.rsplit_once("[default: ")?;
        rest.split(']').next()
    };
    let fits = |value: &&str| !value.contains(' ');
    let named = arg.get_value_names().and_then(|names| names.first()).map(Str::as_str);
    let value = usual(arg).or_else(said).filter(fits).or(named).unwrap_or_default();
    let value = match value.parse::<f64>() {
        Ok(_) => value.to_owned(),
        Err(_) => format!("{value:?}"),
    };
    if matches!(arg.get_action(), ArgAction::Append) { format!("[{value}]") } else { value }
}

/// As lines of a comment.
fn comment(text: &str) -> String {
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
