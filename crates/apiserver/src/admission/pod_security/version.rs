//! Versions of the levels: each release of Kubernetes may check more than the one before, and namespaces may stay with one.

/// The newest version that is known.
const NEWEST: u16 = 36;

/// `latest`, or the minor number of `v1.N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Always the newest rules.
    Latest,
    /// The rules of a release.
    Minor(u16),
}

impl Version {
    /// From a label; `None` where it is neither `latest` nor `v1.` and a number without leading zeros.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::Latest);
        }
        let number = text.strip_prefix("v1.")?;
        let is_plain = number.bytes().all(|byte| byte.is_ascii_digit()) && (number == "0" || !number.starts_with('0'));
        number.parse().ok().filter(|_| is_plain).map(Self::Minor)
    }
    /// Whether the rules are those of a release or newer.
    pub fn is_at_least(self, minor: u16) -> bool {
        match self {
            Self::Latest => true,
            Self::Minor(own) => own >= minor,
        }
    }
    /// As metrics name it.
    pub fn in_metrics(self) -> String {
        match self {
            Self::Latest => "latest".to_owned(),
            Self::Minor(minor) if minor > NEWEST => "future".to_owned(),
            Self::Minor(minor) => format!("v1.{minor}"),
        }
    }
}
