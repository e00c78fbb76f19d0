//! Amounts of resources such as `500m`, `1.5Gi` or `12e6`: parsed once, compared and added exactly, printed canonically.
//!
//! Source: Kubernetes `apimachinery/pkg/api/resource`. A value is a whole number times a power of ten; fractions below one
//! billionth are rounded away from zero, so that whoever asks for something gets something.

use std::{cmp::Ordering, fmt, str::FromStr};

/// Smallest power of ten that is kept.
const NANO: i32 = -9;
/// Largest power of two suffixes may yield; larger binary values are capped, as upstream does.
const MAX_BINARY: i128 = i64::MAX as i128;

/// Which suffixes an amount is printed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `n u m k M G T P E`
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySi,
    /// `e3`, `e6`, …
    DecimalExponent,
}

/// An exact amount.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    /// Multiple of `10^scale`; without trailing zeros, so that equal amounts are equal pairs.
    unscaled: i128,
    /// Power of ten, at least [`NANO`].
    scale: i32,
    /// How to print it.
    format: Format,
}

/// Why a text is no quantity. The texts are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not digits and a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// A suffix that does not exist.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// Digits that make no number, or too many of them.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { unscaled: 0, scale: 0, format: Format::DecimalSi };

    /// A whole number, printed with decimal suffixes.
    pub fn from_integer(value: i64) -> Self {
        Self::normal(i128::from(value), 0, Format::DecimalSi)
    }
    /// Thousandths, printed with decimal suffixes: `from_milli(1500)` is `1500m`.
    pub fn from_milli(value: i64) -> Self {
        Self::normal(i128::from(value), -3, Format::DecimalSi)
    }
    /// A whole number, printed with binary suffixes: `from_bytes(1024)` is `1Ki`.
    pub fn from_bytes(value: i64) -> Self {
        Self::normal(i128::from(value), 0, Format::BinarySi)
    }

    /// Reads a quantity.
    ///
    /// # Errors
    /// Where the text is none; see [`QuantityError`].
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let parts = Parts::split(text)?;
        let (binary, exponent, format) = suffix(parts.suffix)?;
        let mut unscaled: i128 = 0;
        // Upstream rounds only below a billionth; digits beyond what 128 bits hold are refused instead of being lost.
        let mut dropped = false;
        let mut scale: i32 = 0;
        for digit in parts.integer.bytes() {
            unscaled = push_digit(unscaled, digit).ok_or(QuantityError::Numeric)?;
        }
        for digit in parts.fraction.bytes() {
            match push_digit(unscaled, digit) {
                Some(more) if !dropped => {
                    unscaled = more;
                    scale -= 1;
                }
                // So far behind the point that only rounding up sees it.
                _ => dropped |= digit != b'0',
            }
        }
        if binary {
            unscaled = unscaled.checked_mul(1_i128 << exponent).ok_or(QuantityError::Numeric)?;
        } else {
            scale = scale.checked_add(exponent).ok_or(QuantityError::Numeric)?;
        }
        let mut amount = Self::normal(unscaled, scale, format);
        if amount.scale < NANO || dropped {
            amount = Self::normal(amount.divided_up(NANO, dropped), NANO.max(amount.scale), format);
        }
        if format == Format::BinarySi {
            if amount.compare_unsigned(MAX_BINARY) == Ordering::Greater {
                amount = Self::normal(MAX_BINARY, 0, format);
            }
            if amount.unscaled != 0 && amount.compare_unsigned(1) == Ordering::Less {
                amount.format = Format::DecimalSi;
            }
        }
        if parts.negative {
            amount.unscaled = -amount.unscaled;
        }
        Ok(amount)
    }

    /// Takes trailing zeros into the scale.
    fn normal(mut unscaled: i128, mut scale: i32, format: Format) -> Self {
        if unscaled == 0 {
            return Self { unscaled: 0, scale: 0, format };
        }
        while unscaled % 10 == 0 && scale < i32::MAX {
            unscaled /= 10;
            scale += 1;
        }
        Self { unscaled, scale, format }
    }

    /// The amount in units of `10^scale`, rounded away from zero; saturates. `more` says that something tiny was already lost.
    fn divided_up(&self, scale: i32, more: bool) -> i128 {
        if self.unscaled == 0 {
            return i128::from(more);
        }
        if self.scale >= scale {
            let factor = u32::try_from(self.scale.saturating_sub(scale)).ok().and_then(|power| 10_i128.checked_pow(power));
            let saturated = if self.unscaled < 0 { i128::MIN } else { i128::MAX };
            let exact = factor.and_then(|factor| self.unscaled.checked_mul(factor)).unwrap_or(saturated);
            return if more { exact.saturating_add(self.unscaled.signum()) } else { exact };
        }
        let power = u32::try_from(i64::from(scale) - i64::from(self.scale)).unwrap_or(u32::MAX);
        match 10_i128.checked_pow(power) {
            Some(divisor) => {
                let quotient = self.unscaled / divisor;
                if self.unscaled % divisor != 0 || more { quotient + self.unscaled.signum() } else { quotient }
            }
            None => self.unscaled.signum(),
        }
    }

    fn compare_unsigned(&self, value: i128) -> Ordering {
        self.cmp(&Self::normal(value, 0, self.format))
    }

    /// The amount as a whole number, rounded away from zero; saturates at the bounds of 64 bits.
    pub fn value(&self) -> i64 {
        saturate(self.divided_up(0, false))
    }
    /// The amount in thousandths, rounded away from zero; saturates at the bounds of 64 bits.
    pub fn milli_value(&self) -> i64 {
        saturate(self.divided_up(-3, false))
    }
    /// The amount as a whole number, where it is one that fits.
    pub fn exact_value(&self) -> Option<i64> {
        if self.scale < 0 { None } else { i64::try_from(self.divided_up(0, false)).ok() }
    }
    /// About the amount.
    pub fn approximate(&self) -> f64 {
        self.unscaled as f64 * 10_f64.powi(self.scale)
    }
    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.unscaled == 0
    }
    /// -1, 0 or 1.
    pub fn signum(&self) -> i32 {
        match self.unscaled.cmp(&0) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }
    }
    /// How it is printed.
    pub fn format(&self) -> Format {
        self.format
    }
    /// Rounded away from zero to a multiple of `10^scale`.
    #[must_use]
    pub fn rounded_up(&self, scale: i32) -> Self {
        if self.scale >= scale { *self } else { Self::normal(self.divided_up(scale, false), scale, self.format) }
    }
    /// The sum, printed as `self` is, or as `other` where `self` is zero. Exact to 38 digits, then rounded away from zero.
    #[must_use]
    pub fn add(&self, other: &Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        if self.is_zero() || other.is_zero() {
            let kept = if self.is_zero() { other } else { self };
            return Self { format, ..*kept };
        }
        let top = self.scale.max(other.scale);
        // Forty powers below the larger one nothing fits beside it any more.
        let mut scale = self.scale.min(other.scale).max(top.saturating_sub(40));
        loop {
            let (left, right) = (self.divided_up(scale, false), other.divided_up(scale, false));
            let saturated = [left, right].iter().any(|value| *value == i128::MAX || *value == i128::MIN);
            match left.checked_add(right) {
                Some(sum) if !saturated || scale >= top => return Self::normal(sum, scale, format),
                None if scale >= top => return Self::normal(left.saturating_add(right), scale, format),
                _ => scale += 1,
            }
        }
    }
    /// The difference; see [`Quantity::add`].
    #[must_use]
    pub fn sub(&self, other: &Self) -> Self {
        self.add(&other.negated())
    }
    /// The product; saturates.
    #[must_use]
    pub fn mul(&self, factor: i64) -> Self {
        Self::normal(self.unscaled.saturating_mul(i128::from(factor)), self.scale, self.format)
    }
    /// The negative.
    #[must_use]
    pub fn negated(&self) -> Self {
        Self { unscaled: self.unscaled.checked_neg().unwrap_or(i128::MAX), ..*self }
    }
}

/// The canonical text of a quantity, none where the text is no quantity. White space around it is allowed, as upstream does.
pub fn canonicalize(text: &str) -> Option<String> {
    Quantity::parse(text.trim()).ok().map(|quantity| quantity.to_string())
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn push_digit(value: i128, digit: u8) -> Option<i128> {
    value.checked_mul(10)?.checked_add(i128::from(digit - b'0'))
}

struct Parts<'a> {
    negative: bool,
    integer: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(QuantityError::Format),
            Some(b'-') => (true, text.get(1..).unwrap_or_default()),
            Some(b'+') => (false, text.get(1..).unwrap_or_default()),
            Some(_) => (false, text),
        };
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (integer, rest) = rest.split_at(digits(rest));
        let (fraction, rest) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(digits(rest)),
            None => ("", rest),
        };
        if integer.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Format);
        }
        // Letters, then perhaps a sign and digits.
        let letters = rest.bytes().take_while(|byte| b"eEinumkKMGTP".contains(byte)).count();
        let exponent = rest.get(letters..).unwrap_or_default();
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if !exponent.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(QuantityError::Format);
        }
        Ok(Self { negative, integer: integer.trim_start_matches('0'), fraction, suffix: rest })
    }
}

const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// Whether the base is two, the exponent, and the family.
fn suffix(text: &str) -> Result<(bool, i32, Format), QuantityError> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == text) {
        return Ok((false, *exponent, Format::DecimalSi));
    }
    if let Some(index) = BINARY.iter().position(|name| *name == text) {
        return Ok((true, i32::try_from(index).unwrap_or(0) * 10, Format::BinarySi));
    }
    let digits = text.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    // Far beyond any use, and small enough that no calculation with it can overflow.
    let exponent: i32 = digits.parse().map_err(|_| QuantityError::Suffix)?;
    if exponent.abs() > 1_000_000 { Err(QuantityError::Suffix) } else { Ok((false, exponent, Format::DecimalExponent)) }
}

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unscaled == 0 {
            return formatter.write_str("0");
        }
        if self.format == Format::BinarySi && self.scale >= 0 {
            let mut value = self.divided_up(0, false);
            if value.unsigned_abs() >= 1024 {
                let mut index = 0;
                while value % 1024 == 0 && index + 1 < BINARY.len() {
                    value /= 1024;
                    index += 1;
                }
                return write!(formatter, "{value}{}", BINARY.get(index).unwrap_or(&""));
            }
        }
        let mut mantissa = self.unscaled;
        let mut exponent = self.scale;
        while exponent.rem_euclid(3) != 0 || (self.format != Format::DecimalExponent && exponent > 18) {
            match mantissa.checked_mul(10) {
                Some(more) => mantissa = more,
                None => break,
            }
            exponent -= 1;
        }
        match DECIMAL.iter().find(|(_, power)| *power == exponent) {
            Some((_, 0)) => write!(formatter, "{mantissa}"),
            Some((name, _)) if self.format != Format::DecimalExponent => write!(formatter, "{mantissa}{name}"),
            _ => write!(formatter, "{mantissa}e{exponent}"),
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let signs = self.unscaled.signum().cmp(&other.unscaled.signum());
        if signs != Ordering::Equal || self.unscaled == 0 {
            return signs;
        }
        if self.scale == other.scale {
            return self.unscaled.cmp(&other.unscaled);
        }
        let (coarse, fine, flipped) = if self.scale > other.scale { (self, other, false) } else { (other, self, true) };
        let power = u32::try_from(i64::from(coarse.scale) - i64::from(fine.scale)).unwrap_or(u32::MAX);
        let ordering = match 10_i128.checked_pow(power).and_then(|factor| coarse.unscaled.checked_mul(factor)) {
            Some(scaled) => scaled.cmp(&fine.unscaled),
            // Too large for 128 bits, while the other fits: its size decides.
            None if coarse.unscaled > 0 => Ordering::Greater,
            None => Ordering::Less,
        };
        if flipped { ordering.reverse() } else { ordering }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, canonical: &str) {
        assert_eq!(canonicalize(text).as_deref(), Some(canonical), "of {text}");
    }

    #[test]
    fn texts_become_canonical() {
        for (text, canonical) in [
            ("0", "0"),
            ("0n", "0"),
            ("0Ki", "0"),
            ("-0", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("1000m", "1"),
            ("0.1", "100m"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1024Mi", "1Gi"),
            ("1500Mi", "1500Mi"),
            ("0.5Mi", "512Ki"),
            ("1.5Gi", "1536Mi"),
            ("100Ki", "100Ki"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e6", "12e6"),
            ("1e4", "10e3"),
            ("1E", "1E"),
            ("1000E", "1000E"),
            ("100000", "100k"),
            ("123456", "123456"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("1.1n", "2n"),
            ("-1.1n", "-2n"),
            ("1e-12", "1e-9"),
            ("-1Mi", "-1Mi"),
            ("8Ei", "9223372036854775807"),
            ("9223372036854775807", "9223372036854775807"),
            ("  2 ", "2"),
            ("00010", "10"),
            ("12345678901234567890123456789", "12345678901234567890123456789"),
        ] {
            check(text, canonical);
        }
    }

    #[test]
    fn nonsense_is_refused_in_upstreams_words() {
        for text in ["", "m", "1.2.3", "1 k", "--1", "1x", "abc", "0x10", "1m.", "१"] {
            assert_eq!(Quantity::parse(text), Err(QuantityError::Format), "{text:?}");
        }
        for text in ["1kk", "1mi", "1ki", "1K", "1e", "1ee3", "1Mi3", "1m1", "1e99999999999"] {
            assert_eq!(Quantity::parse(text), Err(QuantityError::Suffix), "{text:?}");
        }
    }

    #[test]
    fn amounts_round_away_from_zero_when_read_as_numbers() {
        let quantity = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!(quantity("100m").value(), 1);
        assert_eq!(quantity("100m").milli_value(), 100);
        assert_eq!(quantity("1").milli_value(), 1000);
        assert_eq!(quantity("1Gi").value(), 1 << 30);
        assert_eq!(quantity("1n").milli_value(), 1);
        assert_eq!(quantity("-1500m").value(), -2);
        assert_eq!(quantity("1e30").value(), i64::MAX);
        assert_eq!(quantity("1500m").exact_value(), None);
        assert_eq!(quantity("2k").exact_value(), Some(2000));
    }

    #[test]
    fn amounts_compare_by_value_not_by_text() {
        let quantity = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!(quantity("1"), quantity("1000m"));
        assert_eq!(quantity("1024Mi"), quantity("1Gi"));
        assert!(quantity("1e30") > quantity("1Ei"));
        assert!(quantity("-1e300") < quantity("-1"));
        assert!(quantity("999m") < quantity("1"));
        assert!(quantity("1n") > Quantity::ZERO);
    }

    #[test]
    fn sums_are_exact_and_keep_the_first_format() {
        let quantity = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!(quantity("1Gi").add(&quantity("512Mi")).to_string(), "1536Mi");
        assert_eq!(quantity("0").add(&quantity("512Mi")).to_string(), "512Mi");
        assert_eq!(quantity("1").sub(&quantity("100m")).to_string(), "900m");
        assert_eq!(quantity("1").sub(&quantity("1")).to_string(), "0");
        assert_eq!(quantity("250m").mul(4).to_string(), "1");
        assert!(quantity("1e300").add(&quantity("1n")) >= quantity("1e300"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[-+]?[0-9.]{0,45}[eEinumkKMGTP]{0,2}[-+]?[0-9]{0,6}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                let printed = quantity.to_string();
                prop_assert_eq!(Quantity::parse(&printed).map(|again| again.to_string()), Ok(printed));
                let _ = (quantity.value(), quantity.milli_value(), quantity.add(&quantity), quantity.mul(i64::MIN));
            }
        }
        #[test]
        fn any_other_text_neither(text in ".*") {
            let _ = canonicalize(&text);
        }
    }
}
