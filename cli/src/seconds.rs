//! Times as people write them: `0.5`, `200ms`, `3s`, `5m`, `1h`.

/// The seconds that are meant; without a unit they are seconds.
///
/// # Errors
/// It is no time; one line that says how one is written.
pub fn seconds(text: &str) -> Result<f64, String> {
    const UNITS: [(&str, f64); 4] = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let unit = UNITS.iter().find_map(|&(unit, scale)| Some((text.strip_suffix(unit)?, scale)));
    let (number, scale) = unit.unwrap_or((text, 1.0));
    let number: Option<f64> =
        number.trim_end().parse().ok().filter(|number: &f64| number.is_finite());
    let refuse =
        || "write seconds, or a number with ms, s, m or h, such as 0.5 or 200ms".to_owned();
    Ok(number.ok_or_else(refuse)? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, meant) in [
            ("0.5", 0.5),
            ("2", 2.0),
            ("200ms", 0.2),
            ("3 s", 3.0),
            ("1.5m", 90.0),
            ("1h", 3600.0),
            ("-1", -1.0),
        ] {
            assert!((seconds(text).unwrap() - meant).abs() < 1e-9, "{text}");
        }
        for bad in ["", "s", "soon", "1d", "inf", "NaN", "1 0s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
