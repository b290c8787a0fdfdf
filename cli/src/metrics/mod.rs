//! Metrics, as Prometheus collects them.
//!
//! Each is a number of the document that the status socket serves, and a [`Metric`] says which: so both tell the same, and one
//! table documents it all.

mod history;
mod serve;

use std::net::{SocketAddr, ToSocketAddrs as _};

use prometheus::proto;
use prometheus::{Encoder as _, TextEncoder};
use serde_json::Value;

pub use serve::Watched;

/// What is counted or measured.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, with the unit at its end.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// Where in the document: keys after `/`. `*` stands for each element of a list, `{label}` for each key of an object, which is
    /// that label's value. A text at the end is the value of a label with that key, and the number is 1.
    pub at: &'static str,
    /// Labels of elements that `*` stands for, and their keys in them.
    pub labels: &'static [(&'static str, &'static str)],
    /// By what the number is divided, to be in the unit of the name.
    pub per: f64,
    /// What it means.
    pub help: &'static str,
}

/// A kind of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises, until the daemon is started anew.
    Counter,
    /// It rises and falls.
    Gauge,
    /// How often something took how long: in the document a list of upper ends in nanoseconds, with the count up to each.
    Histogram,
}

/// Where metrics are served, as it is written: `ADDRESS:PORT`.
///
/// # Errors
/// It is not, or no address belongs to it.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let refuse =
        || "write ADDRESS:PORT, such as 127.0.0.1:9167, or 0.0.0.0:9167 for all".to_owned();
    if text.starts_with(':') {
        return Err(refuse());
    }
    text.to_socket_addrs().ok().and_then(|mut found| found.next()).ok_or_else(refuse)
}

/// Upper ends of histograms' buckets, in seconds: three a decade, from a local hit to a disk that hangs.
const BOUNDS: [f64; 19] = [
    1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0, 10.0,
];

/// A value in the document, and the labels of the way to it.
struct Sample<'a> {
    value: &'a Value,
    labels: Vec<(&'static str, String)>,
}

impl Metric {
    /// A count of the document.
    pub const fn counter(name: &'static str, at: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, at, labels: &[], per: 1.0, help }
    }

    /// A number of the document that rises and falls.
    pub const fn gauge(name: &'static str, at: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, at, labels: &[], per: 1.0, help }
    }

    /// Times.
    pub const fn histogram(name: &'static str, at: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Histogram, at, labels: &[], per: 1.0, help }
    }

    /// With labels of the elements of a list.
    pub const fn of_each(mut self, labels: &'static [(&'static str, &'static str)]) -> Self {
        self.labels = labels;
        self
    }

    /// Of a number in microseconds.
    pub const fn from_micros(mut self) -> Self {
        self.per = 1e6;
        self
    }

    fn samples<'a>(&self, document: &'a Value) -> Vec<Sample<'a>> {
        let mut samples = vec![Sample { value: document, labels: Vec::new() }];
        let mut keys = self.at.split('/').skip(1).peekable();
        while let Some(key) = keys.next() {
            let is_last = keys.peek().is_none();
            samples =
                samples.into_iter().flat_map(|sample| self.step(sample, key, is_last)).collect();
        }
        samples
    }

    /// From a value to those that a key stands for.
    fn step<'a>(&self, sample: Sample<'a>, key: &'static str, is_last: bool) -> Vec<Sample<'a>> {
        let Sample { value, labels } = sample;
        if key == "*" {
            let elements = value.as_array().into_iter().flatten();
            let with_labels = |element: &'a Value| {
                let mut labels = labels.clone();
                for &(label, key) in self.labels {
                    let text = element.get(key).map_or_else(String::new, as_label);
                    labels.push((label, text));
                }
                Sample { value: element, labels }
            };
            return elements.map(with_labels).collect();
        }
        if let Some(label) = key.strip_prefix('{').and_then(|key| key.strip_suffix('}')) {
            let members = value.as_object().into_iter().flatten();
            let with_label = |(key, member): (&String, &'a Value)| {
                let labels = labels.iter().cloned().chain([(label, key.clone())]).collect();
                Sample { value: member, labels }
            };
            return members.map(with_label).collect();
        }
        let Some(value) = value.get(key) else { return Vec::new() };
        let mut labels = labels;
        if is_last && let Some(text) = value.as_str() {
            labels.push((key, text.to_owned()));
        }
        vec![Sample { value, labels }]
    }

    fn family(&self, document: &Value) -> Option<proto::MetricFamily> {
        let metrics: Vec<proto::Metric> =
            self.samples(document).into_iter().filter_map(|sample| self.metric(sample)).collect();
        if metrics.is_empty() {
            return None;
        }
        let mut family = proto::MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(match self.kind {
            Kind::Counter => proto::MetricType::COUNTER,
            Kind::Gauge => proto::MetricType::GAUGE,
            Kind::Histogram => proto::MetricType::HISTOGRAM,
        });
        family.set_metric(metrics);
        Some(family)
    }

    fn metric(&self, Sample { value, labels }: Sample<'_>) -> Option<proto::Metric> {
        let mut metric = proto::Metric::default();
        let pair = |(name, value): (&str, String)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value);
            pair
        };
        metric.set_label(labels.into_iter().map(pair).collect());
        match self.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(as_number(value)? / self.per);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(as_number(value)? / self.per);
                metric.set_gauge(gauge);
            }
            Kind::Histogram => metric.set_histogram(histogram(value)?),
        }
        Some(metric)
    }
}

/// The text that Prometheus reads, of a document as the status socket serves it.
pub fn text(metrics: &[Metric], document: &Value) -> String {
    let families: Vec<_> = metrics.iter().filter_map(|metric| metric.family(document)).collect();
    let mut text = Vec::new();
    // It refuses only families without a metric, or without a name.
    let _ = TextEncoder::new().encode(&families, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The metrics as a table in Markdown.
pub fn table(metrics: &[Metric]) -> String {
    let mut text = "| metric | kind | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in metrics {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let of_keys = metric.at.split('/').filter_map(|key| {
            key.strip_prefix('{').and_then(|key| key.strip_suffix('}')).map(str::to_owned)
        });
        let of_lists = metric.labels.iter().map(|(label, _)| (*label).to_owned());
        let of_text =
            metric.name.ends_with("_info").then(|| metric.at.rsplit('/').next()).flatten();
        let labels: Vec<String> =
            of_lists.chain(of_keys).chain(of_text.map(str::to_owned)).collect();
        let (name, labels, help) = (metric.name, labels.join(", "), metric.help);
        text.push_str(&format!("| `{name}` | {kind} | {labels} | {help} |\n"));
    }
    text
}

fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
        Value::String(_) => Some(1.0),
        _ => value.as_f64(),
    }
}

fn as_label(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Of upper ends in nanoseconds and counts. The sum is within 3 %, as wide as the buckets are.
fn histogram(buckets: &Value) -> Option<proto::Histogram> {
    let pair = |pair: &Value| Some((pair.get(0)?.as_f64()? / 1e9, pair.get(1)?.as_u64()?));
    let buckets: Vec<(f64, u64)> = buckets.as_array()?.iter().filter_map(pair).collect();
    let up_to = |bound: f64| {
        let below = buckets.iter().filter(|&&(end, _)| end <= bound);
        below.map(|(_, count)| count).sum::<u64>()
    };
    let mut histogram = proto::Histogram::default();
    histogram.set_sample_count(up_to(f64::INFINITY));
    let sum = buckets.iter().fold(0.0, |sum, &(end, count)| sum + end * count as f64);
    histogram.set_sample_sum(sum);
    let bucket = |bound: &f64| {
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(up_to(*bound));
        bucket
    };
    histogram.set_bucket(BOUNDS.iter().map(bucket).collect());
    Some(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const METRICS: [Metric; 5] = [
        Metric::counter("a_sent_total", "/sent", "What was sent"),
        Metric::counter("a_reads_total", "/layers/{layer}/reads", "Reads"),
        Metric::gauge("a_answer_seconds", "/servers/*/took_us/{statistic}", "Answers")
            .of_each(&[("server", "address")])
            .from_micros(),
        Metric::gauge("a_server_info", "/servers/*/state", "Servers")
            .of_each(&[("server", "address")]),
        Metric::histogram("a_read_seconds", "/layers/{layer}/buckets", "Times"),
    ];

    #[test]
    fn the_document_is_told_as_metrics() {
        let document = json!({
            "sent": 7,
            "layers": {
                "local": { "reads": 5, "buckets": [[9_000, 3], [15_000, 1], [99_000_000_000_u64, 1]] },
                "remote": { "reads": 2, "buckets": [] },
            },
            "servers": [
                { "address": "10.0.0.2:7167", "state": "connected", "took_us": { "mean": 50.0 } },
                { "address": "a\"b", "state": "gone", "took_us": null },
            ],
        });
        let text = text(&METRICS, &document);
        for line in [
            "# HELP a_sent_total What was sent",
            "# TYPE a_sent_total counter",
            "a_sent_total 7",
            "a_reads_total{layer=\"remote\"} 2",
            "a_answer_seconds{server=\"10.0.0.2:7167\",statistic=\"mean\"} 0.00005",
            "a_server_info{server=\"a\\\"b\",state=\"gone\"} 1",
            "a_read_seconds_bucket{layer=\"local\",le=\"0.00001\"} 3",
            "a_read_seconds_bucket{layer=\"local\",le=\"0.00002\"} 4",
            "a_read_seconds_bucket{layer=\"local\",le=\"+Inf\"} 5",
            "a_read_seconds_count{layer=\"local\"} 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert_eq!(text.matches("a_answer_seconds{").count(), 1, "{text}");
    }

    #[test]
    fn what_is_not_there_is_not_told() {
        assert_eq!(text(&METRICS, &json!({ "sent": null })), "");
    }

    #[test]
    fn the_table_names_the_labels() {
        let table = table(&METRICS);
        assert!(table.contains("| `a_reads_total` | counter | layer | Reads |"), "{table}");
        assert!(table.contains("| `a_server_info` | gauge | server, state | Servers |"), "{table}");
        assert!(table.contains("| gauge | server, statistic | Answers |"), "{table}");
    }
}
