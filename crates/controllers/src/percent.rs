//! Numbers that may be percentages.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The number, or the percentage of `total`, rounded up or down; `None` when it is neither.
#[must_use]
pub fn scaled(value: &IntOrString, total: i32, round_up: bool) -> Option<i32> {
    match value {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            let product = percent * i64::from(total);
            let rounded = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(rounded).ok()
        }
    }
}

/// Surge and unavailability of a rolling update; they are never both 0, or nothing could move.
#[must_use]
pub fn fenceposts(
    surge: Option<&IntOrString>,
    unavailable: Option<&IntOrString>,
    desired: i32,
) -> (i32, i32) {
    let surge = surge.and_then(|s| scaled(s, desired, true)).unwrap_or(0);
    let unavailable = unavailable.and_then(|u| scaled(u, desired, false)).unwrap_or(0);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales() {
        let percent = |p: &str| IntOrString::String(p.to_owned());
        assert_eq!(scaled(&percent("25%"), 10, true), Some(3));
        assert_eq!(scaled(&percent("25%"), 10, false), Some(2));
        assert_eq!(scaled(&percent("x"), 10, false), None);
        assert_eq!(fenceposts(Some(&percent("0%")), Some(&percent("25%")), 1), (0, 1));
        assert_eq!(fenceposts(Some(&IntOrString::Int(1)), Some(&percent("25%")), 3), (1, 0));
    }
}
