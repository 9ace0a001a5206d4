//! Amounts as Kubernetes writes them, and bytes as people read them.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const SUFFIXES: [(&str, i128, u32); 13] = [
    // Binary first: `Ki` must not be read as `K` and `i`.
    ("Ki", 1 << 10, 0),
    ("Mi", 1 << 20, 0),
    ("Gi", 1 << 30, 0),
    ("Ti", 1 << 40, 0),
    ("Pi", 1 << 50, 0),
    ("Ei", 1 << 60, 0),
    ("m", 1, 3),
    ("k", 1_000, 0),
    ("M", 1_000_000, 0),
    ("G", 1_000_000_000, 0),
    ("T", 1_000_000_000_000, 0),
    ("P", 1_000_000_000_000_000, 0),
    ("E", 1_000_000_000_000_000_000, 0),
];

/// Whole bytes of an amount, rounded down; `None` if it is no amount, negative, or more than databases can count.
pub fn bytes(quantity: &Quantity) -> Option<u64> {
    let text = quantity.0.trim();
    let (number, factor, thousandths) = match SUFFIXES.iter().find(|(suffix, ..)| text.ends_with(suffix)) {
        Some((suffix, factor, thousandths)) => (&text[..text.len() - suffix.len()], *factor, *thousandths),
        None => match text.split_once(['e', 'E']) {
            Some((number, exponent)) => {
                let exponent: u32 = exponent.trim_start_matches('+').parse().ok().filter(|power| *power <= 18)?;
                (number, 10i128.pow(exponent), 0)
            }
            None => (text, 1, 0),
        },
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
    let whole = whole.strip_prefix('+').unwrap_or(whole);
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let scale = 10i128.pow(fraction.len() as u32);
    let parse = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
    let value = (parse(whole)? * scale + parse(fraction)?).checked_mul(factor)? / scale / 10i128.pow(thousandths);
    u64::try_from(value).ok().filter(|bytes| *bytes <= i64::MAX as u64)
}

/// Bytes as the API's reports show them: binary units, at most two decimals (`41.27Gi`).
pub fn shown(bytes: u64) -> String {
    match SUFFIXES[..6].iter().rev().find(|(_, factor, _)| i128::from(bytes) >= *factor) {
        Some((suffix, factor, _)) => {
            let text = format!("{:.2}", bytes as f64 / *factor as f64);
            format!("{}{suffix}", text.trim_end_matches('0').trim_end_matches('.'))
        }
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("0", Some(0)),
            ("53687091200", Some(50 << 30)),
            ("50Gi", Some(50 << 30)),
            ("1.5Gi", Some(3 << 29)),
            ("1G", Some(1_000_000_000)),
            ("1e3", Some(1000)),
            ("12E2", Some(1200)),
            ("1500m", Some(1)),
            (".5k", Some(500)),
            ("1E", Some(1_000_000_000_000_000_000)),
            ("", None),
            ("-1", None),
            ("Gi", None),
            ("1.5.5", None),
            ("10 parsecs", None),
            ("9Ei", None),
            ("1e99", None),
        ] {
            assert_eq!(bytes(&Quantity(text.to_owned())), expected, "{text:?}");
        }
    }

    #[test]
    fn bytes_are_shown_in_binary_units() {
        for (bytes, text) in [(0, "0"), (1023, "1023"), (50 << 30, "50Gi"), (44_312_000_000, "41.27Gi")] {
            assert_eq!(shown(bytes), text);
        }
    }
}
