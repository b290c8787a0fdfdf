//! Block traces, in the formats in which they are published.
//!
//! - One block number a line; lines of `*` are marks of those who recorded it. The traces of the LIRS paper
//!   (Jiang and Zhang, SIGMETRICS 2002).
//! - Four numbers a line: the first sector, how many, one that is of no use, and the request's number. The traces of
//!   the ARC paper (Megiddo and Modha, FAST 2003); sectors are of 512 bytes.
//! - Comma-separated with a line of names, among them `size` in bytes and `lbn`, a sector of 512 bytes: those of
//!   CloudPhysics, as libCacheSim keeps them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

const SECTOR_BYTES: u64 = 512;
/// What a trace may ask for at once, in blocks: more is no request of a disk.
const BLOCKS_AT_ONCE: u64 = 1 << 20;

/// Which blocks were used, one after the other.
pub(crate) struct Trace {
    pub(crate) name: String,
    /// Numbered by first use: from 0, without gaps.
    pub(crate) uses: Vec<u32>,
    /// How many different ones.
    pub(crate) distinct: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// One number a line.
    Numbers,
    /// First sector, sectors, ignored, request.
    Ranges,
    /// With commas; the columns of the size and of the sector.
    Table { size: usize, sector: usize },
}

impl Trace {
    /// Reads a trace, packed by gzip, xz or zstd or not at all. Sectors are put together to blocks of `block_bytes`.
    ///
    /// # Errors
    /// With the line, when it is none of the formats or holds no uses.
    pub(crate) fn read(path: &Path, block_bytes: u64) -> Result<Self> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        let name = name_of(path);
        let text = BufReader::new(unpacked(BufReader::new(file))?);
        Self::parse(name, text, block_bytes).with_context(|| format!("{shown} is no trace"))
    }

    fn parse(name: String, text: impl BufRead, block_bytes: u64) -> Result<Self> {
        let mut format = None;
        let mut numbers = Numbers::default();
        for (n, line) in text.lines().enumerate() {
            let line = line?;
            let line = line.trim();
            if line.is_empty() || line == "*" {
                continue;
            }
            let known = match format {
                Some(known) => known,
                None => {
                    let found =
                        Format::of(line).with_context(|| format!("line {}: '{line}'", n + 1))?;
                    format = Some(found);
                    if matches!(found, Format::Table { .. }) {
                        continue;
                    }
                    found
                }
            };
            let range = known.blocks(line, block_bytes);
            let (first, count) = range.with_context(|| format!("line {}: '{line}'", n + 1))?;
            for block in first..first.saturating_add(count) {
                numbers.add(block)?;
            }
        }
        if numbers.uses.is_empty() {
            bail!("it is empty");
        }
        Ok(Self { name, distinct: numbers.known.len(), uses: numbers.uses })
    }
}

/// Gives dense numbers.
#[derive(Default)]
struct Numbers {
    known: HashMap<u64, u32>,
    uses: Vec<u32>,
}

impl Numbers {
    fn add(&mut self, block: u64) -> Result<()> {
        let next =
            u32::try_from(self.known.len()).context("more than 4 billion different blocks")?;
        self.uses.push(*self.known.entry(block).or_insert(next));
        Ok(())
    }
}

impl Format {
    /// What a first line shows.
    fn of(line: &str) -> Result<Self> {
        if line.contains(',') {
            let column = |name: &str| {
                let place = line.split(',').position(|column| column.trim() == name);
                place.with_context(|| format!("there is no column '{name}'"))
            };
            return Ok(Self::Table { size: column("size")?, sector: column("lbn")? });
        }
        match line.split_whitespace().count() {
            1 => Ok(Self::Numbers),
            4 => Ok(Self::Ranges),
            columns => bail!("{columns} columns; known are 1, 4 and comma-separated ones"),
        }
    }

    /// The first block that a line uses, and how many.
    fn blocks(self, line: &str, block_bytes: u64) -> Result<(u64, u64)> {
        let number = |text: Option<&str>| -> Result<u64> {
            text.unwrap_or("").trim().parse().context("not a number where one belongs")
        };
        let (sector, bytes) = match self {
            Self::Numbers => return Ok((number(Some(line))?, 1)),
            Self::Ranges => {
                let mut columns = line.split_whitespace();
                let sector = number(columns.next())?;
                (sector, number(columns.next())?.saturating_mul(SECTOR_BYTES))
            }
            Self::Table { size, sector } => {
                let column = |n: usize| number(line.split(',').nth(n));
                (column(sector)?, column(size)?)
            }
        };
        let start = sector.checked_mul(SECTOR_BYTES).context("a sector beyond any disk")?;
        let end = start.checked_add(bytes.max(1)).context("a sector beyond any disk")?;
        let first = start / block_bytes;
        let count = end.div_ceil(block_bytes) - first;
        if count > BLOCKS_AT_ONCE {
            bail!("{count} blocks at once");
        }
        Ok((first, count))
    }
}

/// Without what says how it is packed and kept.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut name = name.as_ref();
    for ending in [".gz", ".xz", ".zst", ".trace", ".lis", ".csv", ".txt"] {
        name = name.strip_suffix(ending).unwrap_or(name);
    }
    name.to_owned()
}

/// What a file holds, by how it begins.
fn unpacked(mut file: impl BufRead + 'static) -> io::Result<Box<dyn Read>> {
    let start = file.fill_buf()?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(file))
    } else if start.starts_with(b"\xfd7zXZ\0") {
        Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(file))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::stream::read::Decoder::with_buffer(file)?)
    } else {
        Box::new(file)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn parse(text: &str) -> Result<Trace> {
        Trace::parse("t".to_owned(), text.as_bytes(), 4096)
    }

    #[test]
    fn each_format_is_known_by_its_first_line() {
        let trace = parse("7\n*\n9\n\n7\n").unwrap();
        assert_eq!((trace.uses, trace.distinct), (vec![0, 1, 0], 2));
        // Sectors 4 to 19 lie in the blocks 0, 1 and 2.
        assert_eq!(parse("4 16 0 0\n16 8 0 1\n").unwrap().uses, [0, 1, 2, 2]);
        let table = "version,time,op,size,lbn\n1,5,2a,4096,8\n1,6,2a,512,9\n1,7,28,8192,0\n";
        assert_eq!(parse(table).unwrap().uses, [0, 0, 1, 0]);
        assert_eq!(Trace::parse(String::new(), "4 16 0 0\n".as_bytes(), 512).unwrap().distinct, 16);
    }

    #[test]
    fn what_is_no_trace_is_said_with_its_line() {
        let says = |text: &str| format!("{:#}", parse(text).err().expect("an error"));
        assert_eq!(
            says("1\n2\nx\n"),
            "line 3: 'x': not a number where one belongs: invalid digit found in string"
        );
        assert!(says("1 2\n").contains("2 columns"), "{}", says("1 2\n"));
        assert!(says("a,b\n1,2\n").contains("'size'"));
        assert!(says("\n*\n").contains("empty"));
        assert!(says("1 99999999999 0 0\n").contains("at once"));
        assert!(says("18446744073709551615 8 0 0\n").contains("beyond"));
    }

    #[test]
    fn packed_traces_are_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let text = b"1\n2\n1\n";
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(text).unwrap();
        let packed = [
            ("a.trace.gz", gz.finish().unwrap()),
            ("b.xz", xz.finish().unwrap()),
            ("c.lis.zst", zstd::encode_all(&text[..], 1).unwrap()),
            ("d", text.to_vec()),
        ];
        for (name, bytes) in packed {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let trace = Trace::read(&path, 4096).unwrap();
            assert_eq!((trace.uses, trace.name.len()), (vec![0, 1, 0], 1), "{name}");
        }
    }
}
