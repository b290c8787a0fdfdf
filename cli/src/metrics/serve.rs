//! Over HTTP: `/metrics` for Prometheus, `/status` as the status socket says it, and `/` for people, who see both of them and the
//! last hour (`/history`).

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::TEXT_FORMAT;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::MissedTickBehavior;

use super::history::{EVERY_SECONDS, History};
use super::{Metric, text};

/// Shows the daemon, and asks it for nothing but `/status` and `/history`.
const PAGE: &str = include_str!("page.html");

/// What the page may do: nothing that is not in it, and ask us.
const PAGE_MAY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
                        base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Peers at a time; others wait.
const PEERS_MAX: usize = 32;

/// A peer that does not say what it wants, or does not take it, within this time is left.
const PATIENCE: Duration = Duration::from_secs(10);

/// A daemon's metrics, while it lives.
#[derive(Debug)]
pub struct Watched {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Document {
    metrics: &'static [Metric],
    read: Box<dyn Fn() -> String + Send + Sync>,
    history: Mutex<History>,
}

impl Watched {
    /// Serves `metrics` of the document that `read` gives, at `address`, from a thread of its own; and a page, with the last hour of
    /// those of its numbers that `history` points to.
    ///
    /// # Errors
    /// Those of bind(2), or there is no thread to be had.
    pub fn serve(
        address: SocketAddr,
        metrics: &'static [Metric],
        history: &'static [&'static str],
        read: impl Fn() -> String + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let history = Mutex::new(History::new(history));
        let document = Arc::new(Document { metrics, read: Box::new(read), history });
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, document.clone()) => {}
                    () = document.remember() => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, document: Arc<Document>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!(%error, "no metrics"),
    };
    let places = Arc::new(Semaphore::new(PEERS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptors, perhaps; it may pass.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let document = document.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let answer = document.answer(&request);
                async { Ok::<_, Infallible>(answer) }
            });
            let mut connection = http1::Builder::new();
            connection.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
            // What goes wrong is the peer's own affair.
            let served = connection.serve_connection(TokioIo::new(stream), answer);
            let _ = tokio::time::timeout(2 * PATIENCE, served).await;
            drop(place);
        });
    }
}

impl Document {
    /// Notes the numbers of the page now and then, for ever.
    async fn remember(&self) {
        let mut time = tokio::time::interval(Duration::from_secs(EVERY_SECONDS));
        time.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            time.tick().await;
            if let Ok(document) = serde_json::from_str(&(self.read)()) {
                self.history.lock().unwrap_or_else(PoisonError::into_inner).note(&document);
            }
        }
    }

    fn answer<T>(&self, request: &Request<T>) -> Response<Full<Bytes>> {
        let of = |kind: &'static str, body: String| {
            let mut response = Response::new(Full::new(Bytes::from(body)));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        };
        let with = |status: StatusCode, body: &str| {
            let mut response = of("text/plain; charset=utf-8", body.to_owned());
            *response.status_mut() = status;
            response
        };
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return with(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/metrics" => match serde_json::from_str(&(self.read)()) {
                Ok(document) => of(TEXT_FORMAT, text(self.metrics, &document)),
                Err(_) => with(StatusCode::INTERNAL_SERVER_ERROR, "no document\n"),
            },
            "/status" => of("application/json", (self.read)()),
            "/history" => {
                let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
                let history = serde_json::to_string(&*history);
                of("application/json", history.expect("numbers and names are JSON"))
            }
            "/" => {
                let mut page = of("text/html; charset=utf-8", PAGE.to_owned());
                let headers = page.headers_mut();
                headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_MAY));
                page
            }
            _ => with(StatusCode::NOT_FOUND, "here are /, /metrics, /status and /history\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use super::*;

    const METRICS: [Metric; 1] = [Metric::counter("a_total", "/a", "A")];

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut peer = TcpStream::connect(address).unwrap();
        peer.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn metrics_and_status_are_served_and_nothing_else() {
        // A port that was free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let watched =
            Watched::serve(address, &METRICS, &["/a"], || "{\"a\":5}".to_owned()).unwrap();
        let get = |path: &str| ask(address, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let metrics = get("/metrics");
        assert!(metrics.starts_with("HTTP/1.1 200 OK") && metrics.ends_with("a_total 5\n"));
        assert!(get("/status").ends_with("{\"a\":5}"));
        assert!(get("/other").starts_with("HTTP/1.1 404"));
        let page = get("/");
        assert!(page.contains("content-security-policy: default-src 'none'"));
        assert!(page.contains("<!doctype html>") && page.trim_end().ends_with("</html>"));
        // The first look is taken at once.
        while !get("/history").ends_with(",[5.0]]]}") {
            std::thread::sleep(Duration::from_millis(20));
        }
        let posted = ask(address, "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        assert!(posted.starts_with("HTTP/1.1 405"));
        // One that says nothing keeps nobody waiting.
        let _silent = TcpStream::connect(address).unwrap();
        assert!(get("/status").ends_with("{\"a\":5}"));
        assert!(Watched::serve(address, &METRICS, &[], String::new).is_err(), "the port is in use");
        drop(watched);
        assert!(TcpStream::connect(address).is_err());
    }
}
