//! Who answers: what a workload is run on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Who answers the reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// The directory itself, through the kernel's page cache.
    PageCache,
    /// The same with as much memory as the client and the lenders have together.
    PageCacheTotal,
    /// The directory itself, past the page cache.
    Direct,
    /// rampool without servers.
    Local,
    /// rampool with so many servers.
    Pool(u8),
    /// libfuse's example that passes everything on, past the page cache.
    Passthrough,
    /// memcached, asked for blocks by a program that was rewritten for it.
    Memcached,
    /// rclone mount.
    Rclone,
    /// JuiceFS, with its objects in the source.
    JuiceFs,
}

impl Target {
    /// All kinds, by name.
    const NAMES: [(&str, Self); 9] = [
        ("page-cache", Self::PageCache),
        ("page-cache-total", Self::PageCacheTotal),
        ("direct", Self::Direct),
        ("local", Self::Local),
        ("pool", Self::Pool(1)),
        ("passthrough", Self::Passthrough),
        ("memcached", Self::Memcached),
        ("rclone", Self::Rclone),
        ("juicefs", Self::JuiceFs),
    ];

    /// For people.
    pub(crate) fn title(self) -> String {
        match self {
            Self::PageCache => "page cache".to_owned(),
            Self::PageCacheTotal => "page cache, all memory".to_owned(),
            Self::Direct => "disk, O_DIRECT".to_owned(),
            Self::Local => "rampool, local".to_owned(),
            Self::Pool(1) => "rampool, 1 lender".to_owned(),
            Self::Pool(lenders) => format!("rampool, {lenders} lenders"),
            Self::Passthrough => "passthrough".to_owned(),
            Self::Memcached => "memcached".to_owned(),
            Self::Rclone => "rclone".to_owned(),
            Self::JuiceFs => "JuiceFS".to_owned(),
        }
    }

    /// How many lend to it.
    pub(crate) fn lenders(self) -> u8 {
        match self {
            Self::Pool(lenders) => lenders,
            _ => 0,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(lenders) if *lenders > 1 => write!(f, "pool-{lenders}"),
            _ => {
                let name = Self::NAMES.iter().find(|(_, target)| target == self);
                f.write_str(name.map_or("pool", |(name, _)| name))
            }
        }
    }
}

/// Words that are so much alike, 0 to 1, may have been meant.
const LIKE: f64 = 0.8;

fn likeness(name: &str, text: &str) -> f64 {
    strsim::jaro_winkler(name, text)
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, target)) = Self::NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*target);
        }
        match text.strip_prefix("pool-").map(str::parse) {
            Some(Ok(lenders @ 1..=16)) => Ok(Self::Pool(lenders)),
            Some(_) => Err(format!("'{text}': a pool has 1 to 16 lenders, such as pool-3")),
            None => {
                let names = Self::NAMES.map(|(name, _)| name);
                let near = names
                    .into_iter()
                    .max_by(|a, b| likeness(a, text).total_cmp(&likeness(b, text)));
                let hint = match near.filter(|name| likeness(name, text) > LIKE) {
                    Some(name) => format!("is it '{name}'?"),
                    None => format!("there are {}", names.join(", ")),
                };
                Err(format!("there is no target '{text}'; {hint}"))
            }
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}
