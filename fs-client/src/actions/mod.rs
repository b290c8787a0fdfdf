//! `rampool warm`, `pin`, `unpin`, `drop`: what is done to the cached blocks of single files, by way of the files themselves.

pub(crate) mod cached;
pub(crate) mod call;
mod walk;

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rampool_cli::plain::plain;
use rampool_cli::size::ByteSize;
use rustix::io::Errno;
use serde_json::json;

use self::call::{Deed, LEN_MAX, call};
use self::walk::{Entry, Paths};
use crate::args::Format;
use crate::failure::Failure;
use crate::tell;

/// So many files are dealt with at once.
const AT_ONCE: usize = 4;

/// The exit code of a program that was interrupted.
const INTERRUPTED: u8 = 130;

/// Files of a mount.
#[derive(Debug, clap::Args)]
pub(crate) struct FilesArgs {
    /// Files and directories of a mount
    #[arg(required_unless_present = "from_list")]
    paths: Vec<PathBuf>,
    /// A file with one path a line; '-' for standard input
    #[arg(long, value_name = "FILE")]
    from_list: Option<PathBuf>,
    /// How to say what was done
    #[arg(short = 'w', long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Files of a mount, which are read.
#[derive(Debug, clap::Args)]
pub(crate) struct ReadFilesArgs {
    #[command(flatten)]
    files: FilesArgs,
    /// Read no more than so many bytes a second, such as 50M
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    rate: Option<ByteSize>,
}

fn rate(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize =
        text.parse().map_err(|error: rampool_cli::size::SizeError| error.to_string())?;
    if size.bytes() == 0 { Err("it would never end".to_owned()) } else { Ok(size) }
}

/// Brings files into the cache, and has them stay there if `stay`.
pub(crate) fn read(args: &ReadFilesArgs, stay: bool) -> Result<ExitCode, Failure> {
    act(&args.files, if stay { Deed::Pin } else { Deed::Warm }, args.rate)
}

/// Lets files go, or forgets what is cached of them.
pub(crate) fn let_go(args: &FilesArgs, forget: bool) -> Result<ExitCode, Failure> {
    act(args, if forget { Deed::Drop } else { Deed::Unpin }, None)
}

/// What was done so far.
#[derive(Debug, Default)]
struct Account {
    files: AtomicU64,
    failed: AtomicU64,
    /// Of those below a directory, as they are not to be cached.
    excluded: AtomicU64,
    /// Of the files, whether they are in the cache now or not.
    bytes: AtomicU64,
    /// By where they came from: the cache itself, servers, the source.
    came: [AtomicU64; 3],
}

fn act(args: &FilesArgs, deed: Deed, rate: Option<ByteSize>) -> Result<ExitCode, Failure> {
    let paths = Paths::new(&args.paths, args.from_list.as_deref())?;
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, interrupted.clone())
        .map_err(|error| Failure::system(format!("cannot handle signals: {error}")))?;
    let stopped = || interrupted.load(Relaxed);
    let began = Instant::now();
    let reads = matches!(deed, Deed::Warm | Deed::Pin);
    let bar = progress(reads);
    // What there is to do; what cannot be found is told of when its turn comes.
    for entry in paths.files().flatten().take_while(|_| !stopped()) {
        bar.inc_length(if reads { entry.size } else { 1 });
    }
    let (account, pace) = (Account::default(), Pace::new(rate));
    let complain = |text: &str| {
        account.failed.fetch_add(1, Relaxed);
        bar.suspend(|| rampool_cli::say!("rampool: {text}"));
    };
    let (hand_out, next) = mpsc::sync_channel::<Entry>(AT_ONCE);
    let next = Mutex::new(next);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let file = next.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(entry) = file else { return };
                    if stopped() {
                        continue;
                    }
                    let done = do_to_file(&entry, deed, |bytes, done| {
                        bar.inc(bytes);
                        account.bytes.fetch_add(bytes, Relaxed);
                        account.note(done);
                        pace.wait(done.remote + done.source, &stopped);
                        !stopped()
                    });
                    match done {
                        Ok(()) => drop(account.files.fetch_add(1, Relaxed)),
                        // Who names a directory means what is cached of it.
                        Err(Errno::NOTSUP) if entry.found_on.is_some() => {
                            account.excluded.fetch_add(1, Relaxed);
                        }
                        Err(error) => {
                            complain(&format!("{}: {}", entry.path.display(), explain(error)));
                        }
                    }
                    if !reads {
                        bar.inc(1);
                    }
                }
            });
        }
        for found in paths.files().take_while(|_| !stopped()) {
            match found {
                Ok(entry) => drop(hand_out.send(entry)),
                Err(error) => complain(&error),
            }
        }
        drop(hand_out);
    });
    bar.finish_and_clear();
    tell(&account.tell(deed, began.elapsed(), stopped(), args.format))?;
    let is_whole = deed != Deed::Pin || account.left() == 0;
    Ok(match account.failed.into_inner() {
        _ if stopped() => ExitCode::from(INTERRUPTED),
        0 if is_whole => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Does it to one file, piece by piece where it is read: `each` is told of every piece, and says whether to go on.
fn do_to_file(
    entry: &Entry,
    deed: Deed,
    mut each: impl FnMut(u64, call::Done) -> bool,
) -> Result<(), Errno> {
    let (file, size) = (entry.open()?, entry.size);
    if matches!(deed, Deed::Unpin | Deed::Drop) || size == 0 {
        return call(file.as_fd(), deed, 0, 0).map(drop);
    }
    for offset in (0..size).step_by(LEN_MAX) {
        let len = (size - offset).min(LEN_MAX as u64);
        if !each(len, call(file.as_fd(), deed, offset, len as usize)?) {
            break;
        }
    }
    Ok(())
}

fn explain(error: Errno) -> String {
    match error {
        Errno::NOTTY => "is not on a mount of this version of rampool".to_owned(),
        Errno::NOTSUP => "is excluded from the cache".to_owned(),
        Errno::PERM => "only who has mounted it, and root, may do that".to_owned(),
        Errno::NOSPC => "no more files can be pinned than the cache has blocks".to_owned(),
        Errno::STALE => "was replaced meanwhile".to_owned(),
        error => plain(error),
    }
}

fn progress(in_bytes: bool) -> ProgressBar {
    let template = if in_bytes {
        "{bar:30} {percent:>3}%  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left"
    } else {
        "{bar:30} {percent:>3}%  {pos} of {len} files"
    };
    let style =
        ProgressStyle::with_template(template).expect("the templates are constant and valid");
    let bar = ProgressBar::new(0).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

impl Account {
    /// A piece of a file.
    fn note(&self, call::Done { bytes, remote, source, .. }: call::Done) {
        let source = source.min(bytes);
        let remote = remote.min(bytes - source);
        for (from, bytes) in self.came.iter().zip([bytes - source - remote, remote, source]) {
            from.fetch_add(bytes, Relaxed);
        }
    }

    /// Bytes that are not in the cache though they were asked for.
    fn left(&self) -> u64 {
        let here: u64 = self.came.iter().map(|from| from.load(Relaxed)).sum();
        self.bytes.load(Relaxed).saturating_sub(here)
    }

    fn tell(&self, deed: Deed, took: Duration, stopped: bool, format: Format) -> String {
        let [files, failed, excluded, bytes] =
            [&self.files, &self.failed, &self.excluded, &self.bytes]
                .map(|count| count.load(Relaxed));
        let [local, remote, source] = [0, 1, 2].map(|layer: usize| self.came[layer].load(Relaxed));
        let here = local + remote + source;
        let seconds = took.as_secs_f64();
        if format == Format::Json {
            let done = json!({
                "files": files, "failed": failed, "excluded": excluded, "interrupted": stopped, "seconds": seconds,
                "bytes": bytes, "cached_bytes": here,
                "from_bytes": { "local": local, "remote": remote, "source": source },
            });
            return format!("{done}\n");
        }
        let what = match deed {
            Deed::Warm => "warmed",
            Deed::Pin => "pinned",
            Deed::Unpin => "unpinned",
            Deed::Drop | Deed::Look => "dropped",
        };
        let mut text = format!("{what} {files} {}", if files == 1 { "file" } else { "files" });
        if matches!(deed, Deed::Warm | Deed::Pin) {
            let [here, local, remote, source] = [here, local, remote, source].map(ByteSize);
            text += &format!(
                ", {here} in {seconds:.1} s: {local} were here, {remote} came from servers, {source} from the source"
            );
        }
        text.push('\n');
        if excluded > 0 {
            text += &format!("{excluded} are excluded from the cache\n");
        }
        let left = ByteSize(self.left());
        if left.bytes() > 0 {
            text += &match deed {
                Deed::Pin => format!(
                    "{left} are not pinned: no more than three quarters of the cache can be ('rampool limit' makes it larger), or they changed meanwhile\n"
                ),
                _ => format!("{left} found no place in the cache, or changed meanwhile\n"),
            };
        }
        if stopped {
            text += "interrupted\n";
        }
        text
    }
}

/// So many bytes a second, for all threads together.
struct Pace {
    rate: Option<ByteSize>,
    /// When the next bytes may be read.
    next: Mutex<Instant>,
}

impl Pace {
    fn new(rate: Option<ByteSize>) -> Self {
        Self { rate, next: Mutex::new(Instant::now()) }
    }

    /// After `bytes` were read: until as many more may be, or it is stopped.
    fn wait(&self, bytes: u64, stopped: &dyn Fn() -> bool) {
        const STEP: Duration = Duration::from_millis(100);
        let Some(rate) = self.rate else { return };
        let until = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let takes = Duration::from_secs_f64(bytes as f64 / rate.bytes() as f64);
            *next = (*next).max(Instant::now()) + takes;
            *next
        };
        while !stopped() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(STEP));
        }
    }
}
