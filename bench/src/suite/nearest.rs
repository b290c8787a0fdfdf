//! What somebody may have meant.

/// "; is it 'NAME'?" for the nearest of `names`, or all of them when none is near.
pub(crate) fn nearest(text: &str, names: &[&str]) -> String {
    let near = names.iter().map(|name| (distance(text, name), name)).min();
    match near {
        Some((distance, name)) if distance <= 1 + text.len() / 4 => format!("; is it '{name}'?"),
        _ => format!("; there are {}", names.join(", ")),
    }
}

/// Characters to change, insert or leave out (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (n, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = n + 1;
        for (m, &b) in b.iter().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[m + 1];
            row[m + 1] = changed.min(row[m] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_seen_and_nonsense_is_not_guessed_at() {
        let names = ["page-cache", "direct", "local"];
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(nearest("dircet", &names), "; is it 'direct'?");
        assert_eq!(nearest("xyzzyx", &names), "; there are page-cache, direct, local");
    }
}
