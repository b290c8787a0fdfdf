//! What the suites found, for people and for programs.

use serde_json::{Value, json};

use super::compare::{Compared, Finding};
use crate::table::{grouped, table};

/// A defect in a line, or more if its detail has more.
pub(super) fn defect(finding: &Finding) -> String {
    let detail = finding.detail.trim_end().replace('\n', "\n      ");
    format!("{}\n      {detail}", finding.name)
}

/// Prints it for people.
pub(super) fn print(found: &[Compared]) {
    let header = [
        "suite",
        "through",
        "cases",
        "skipped",
        "failed on both",
        "defects",
        "s source",
        "s mount",
    ];
    let mut table = table(&header, 2);
    for compared in found {
        table.add_row([
            compared.suite.to_owned(),
            compared.side.label().to_owned(),
            grouped(compared.cases as u64),
            grouped(compared.skipped as u64),
            grouped(compared.also_on_source.len() as u64),
            grouped(compared.defects.len() as u64),
            format!("{:.1}", compared.source_elapsed.as_secs_f64()),
            format!("{:.1}", compared.mount_elapsed.as_secs_f64()),
        ]);
    }
    println!("{table}");
    list("Failed on the source too", found, |compared| &compared.also_on_source);
    list("Defects: failed through the mount only", found, |compared| &compared.defects);
    if found.iter().all(|compared| compared.defects.is_empty()) {
        println!("\nNo defects.");
    }
}

fn list(title: &str, found: &[Compared], of: impl Fn(&Compared) -> &Vec<Finding>) {
    let mut findings = found.iter().flat_map(of).peekable();
    if findings.peek().is_some() {
        println!("\n{title}:");
        findings.for_each(|finding| println!("  {}", defect(finding)));
    }
}

/// One document with everything.
pub(super) fn document(found: &[Compared]) -> Value {
    let findings = |findings: &[Finding]| -> Value {
        let each = |f: &Finding| json!({ "name": f.name, "detail": f.detail });
        findings.iter().map(each).collect()
    };
    let suite = |compared: &Compared| {
        json!({
            "suite": compared.suite,
            "through": compared.side.label(),
            "cases": compared.cases,
            "skipped": compared.skipped,
            "failed_on_both": findings(&compared.also_on_source),
            "defects": findings(&compared.defects),
            "source_seconds": compared.source_elapsed.as_secs_f64(),
            "mount_seconds": compared.mount_elapsed.as_secs_f64(),
        })
    };
    let defects: usize = found.iter().map(|compared| compared.defects.len()).sum();
    json!({ "defects": defects, "suites": found.iter().map(suite).collect::<Vec<_>>() })
}
