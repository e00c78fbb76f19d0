//! Amounts of resources: what `500m`, `64Mi` and `1e3` mean, and how amounts are written.
//!
//! Amounts are whole numbers of thousandths, which is all the node needs (CPU is given in thousandths, memory in bytes).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// An amount in thousandths of its unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount {
    thousandths: i128,
}

impl Amount {
    /// Whole units: CPUs, bytes, pods.
    #[must_use]
    pub fn units(units: i64) -> Self {
        Self { thousandths: i128::from(units) * 1000 }
    }

    /// Thousandths: millicores.
    #[must_use]
    pub fn thousandths(thousandths: i64) -> Self {
        Self { thousandths: i128::from(thousandths) }
    }

    /// Reads a quantity; `None` where it is malformed.
    /// Source: Kubernetes API concepts, the grammar of `resource.Quantity`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = digits.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(digits.len());
        let (number, suffix) = digits.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        // Twelve decimals hold every fraction that survives rounding up to a thousandth.
        let mut scaled: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        for position in 0..12 {
            let digit = fraction.as_bytes().get(position).map_or(0, |byte| byte.wrapping_sub(b'0'));
            scaled = scaled.checked_mul(10)?.checked_add(i128::from(digit))?;
        }
        let (multiply, divide): (i128, i128) = match suffix {
            "" => (1, 1),
            "n" => (1, 1_000_000_000),
            "u" => (1, 1_000_000),
            "m" => (1, 1000),
            "k" => (1000, 1),
            "M" => (1_000_000, 1),
            "G" => (1_000_000_000, 1),
            "T" => (1_000_000_000_000, 1),
            "P" => (1_000_000_000_000_000, 1),
            "E" => (1_000_000_000_000_000_000, 1),
            "Ki" => (1 << 10, 1),
            "Mi" => (1 << 20, 1),
            "Gi" => (1 << 30, 1),
            "Ti" => (1 << 40, 1),
            "Pi" => (1 << 50, 1),
            "Ei" => (1 << 60, 1),
            exponent => {
                let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
                let factor = 10i128.checked_pow(power.unsigned_abs())?;
                if power < 0 { (1, factor) } else { (factor, 1) }
            }
        };
        let divisor = divide.checked_mul(1_000_000_000)?;
        let product = scaled.checked_mul(multiply)?;
        let thousandths = product / divisor + i128::from(product % divisor != 0);
        Some(Self { thousandths: if negative { -thousandths } else { thousandths } })
    }

    /// Whole units, rounded up.
    #[must_use]
    pub fn as_units(self) -> i64 {
        let rounded = self.thousandths.div_euclid(1000) + i128::from(self.thousandths.rem_euclid(1000) != 0);
        i64::try_from(rounded).unwrap_or(i64::MAX)
    }

    /// Thousandths.
    #[must_use]
    pub fn as_thousandths(self) -> i64 {
        i64::try_from(self.thousandths).unwrap_or(i64::MAX)
    }

    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.thousandths == 0
    }

    /// How many times the divisor goes into it, rounded up; the divisor counts as one where it is zero.
    #[must_use]
    pub fn divided_by(self, divisor: Self) -> i64 {
        let divisor = if divisor.thousandths <= 0 { 1000 } else { divisor.thousandths };
        let quotient = self.thousandths.div_euclid(divisor) + i128::from(self.thousandths.rem_euclid(divisor) != 0);
        i64::try_from(quotient).unwrap_or(i64::MAX)
    }

    /// Written as a number of units or, where that is not whole, of thousandths (`2`, `1500m`).
    #[must_use]
    pub fn to_quantity(self) -> Quantity {
        if self.thousandths % 1000 == 0 {
            Quantity((self.thousandths / 1000).to_string())
        } else {
            Quantity(format!("{}m", self.thousandths))
        }
    }
}

impl std::ops::Add for Amount {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { thousandths: self.thousandths.saturating_add(other.thousandths) }
    }
}

impl std::ops::Sub for Amount {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { thousandths: self.thousandths.saturating_sub(other.thousandths) }
    }
}

/// Bytes in the form upstream gives capacities (`16384Ki`).
#[must_use]
pub fn kibibytes(bytes: u64) -> Quantity {
    Quantity(format!("{}Ki", bytes / 1024))
}

/// The amount of one resource in a list; malformed ones count as absent, since validation has seen them before.
#[must_use]
pub fn amount_of(list: Option<&BTreeMap<String, Quantity>>, resource: &str) -> Option<Amount> {
    list.and_then(|list| list.get(resource)).and_then(|quantity| Amount::parse(&quantity.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_upstream_reads_them() {
        for (text, thousandths) in [
            ("1", 1000),
            ("500m", 500),
            ("0.1", 100),
            (".5", 500),
            ("1.5Gi", 1_610_612_736_000),
            ("64Mi", 67_108_864_000),
            ("1e3", 1_000_000),
            ("2E", 2_000_000_000_000_000_000_000),
            ("1u", 1),
            ("-1500m", -1500),
            ("5E-1", 500),
        ] {
            assert_eq!(Amount::parse(text), Some(Amount { thousandths }), "{text}");
        }
        for text in ["", "x", "1x", "1e", "--1", "e3", "1MiB"] {
            assert_eq!(Amount::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_divisor_rounds_up() {
        let amount = |text| Amount::parse(text).unwrap();
        assert_eq!(amount("1500m").divided_by(amount("1")), 2);
        assert_eq!(amount("1500m").divided_by(amount("1m")), 1500);
        assert_eq!(amount("64Mi").divided_by(amount("1Mi")), 64);
        assert_eq!(amount("64Mi").divided_by(amount("0")), 67_108_864);
    }
}
