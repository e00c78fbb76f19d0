//! What a certificate's key may be used for, in Kubernetes' words.

use std::fmt;
use std::str::FromStr;

/// A key usage or extended key usage, named as in `spec.usages` of a CertificateSigningRequest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Usage {
    /// `signing`, another name of `digital signature`
    Signing,
    /// `digital signature`
    DigitalSignature,
    /// `content commitment`
    ContentCommitment,
    /// `key encipherment`
    KeyEncipherment,
    /// `key agreement`
    KeyAgreement,
    /// `data encipherment`
    DataEncipherment,
    /// `cert sign`
    CertSign,
    /// `crl sign`
    CrlSign,
    /// `encipher only`
    EncipherOnly,
    /// `decipher only`
    DecipherOnly,
    /// `any`
    Any,
    /// `server auth`
    ServerAuth,
    /// `client auth`
    ClientAuth,
    /// `code signing`
    CodeSigning,
    /// `email protection`
    EmailProtection,
    /// `s/mime`, another name of `email protection`
    SMime,
    /// `ipsec end system`
    IpsecEndSystem,
    /// `ipsec tunnel`
    IpsecTunnel,
    /// `ipsec user`
    IpsecUser,
    /// `timestamping`
    Timestamping,
    /// `ocsp signing`
    OcspSigning,
    /// `microsoft sgc`
    MicrosoftSgc,
    /// `netscape sgc`
    NetscapeSgc,
}

/// How a usage is written into a certificate.
pub(crate) enum Encoding {
    /// A bit of the key usage extension; bit 15 is the first.
    Bit(u16),
    /// An identifier of the extended key usage extension.
    Identifier(&'static [u32]),
}

use Usage::*;

const NAMES: &[(Usage, &str)] = &[
    (Signing, "signing"),
    (DigitalSignature, "digital signature"),
    (ContentCommitment, "content commitment"),
    (KeyEncipherment, "key encipherment"),
    (KeyAgreement, "key agreement"),
    (DataEncipherment, "data encipherment"),
    (CertSign, "cert sign"),
    (CrlSign, "crl sign"),
    (EncipherOnly, "encipher only"),
    (DecipherOnly, "decipher only"),
    (Any, "any"),
    (ServerAuth, "server auth"),
    (ClientAuth, "client auth"),
    (CodeSigning, "code signing"),
    (EmailProtection, "email protection"),
    (SMime, "s/mime"),
    (IpsecEndSystem, "ipsec end system"),
    (IpsecTunnel, "ipsec tunnel"),
    (IpsecUser, "ipsec user"),
    (Timestamping, "timestamping"),
    (OcspSigning, "ocsp signing"),
    (MicrosoftSgc, "microsoft sgc"),
    (NetscapeSgc, "netscape sgc"),
];

impl Usage {
    /// The name in Kubernetes' API.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(usage, _)| *usage == self).map_or("", |(_, name)| name)
    }

    pub(crate) fn encoding(self) -> Encoding {
        match self {
            Signing | DigitalSignature => Encoding::Bit(1 << 15),
            ContentCommitment => Encoding::Bit(1 << 14),
            KeyEncipherment => Encoding::Bit(1 << 13),
            DataEncipherment => Encoding::Bit(1 << 12),
            KeyAgreement => Encoding::Bit(1 << 11),
            CertSign => Encoding::Bit(1 << 10),
            CrlSign => Encoding::Bit(1 << 9),
            EncipherOnly => Encoding::Bit(1 << 8),
            DecipherOnly => Encoding::Bit(1 << 7),
            Any => Encoding::Identifier(&[2, 5, 29, 37, 0]),
            ServerAuth => Encoding::Identifier(&[1, 3, 6, 1, 5, 5, 7, 3, 1]),
            ClientAuth => Encoding::Identifier(&[1, 3, 6, 1, 5, 5, 7, 3, 2]),
            CodeSigning => Encoding::Identifier(&[1, 3, 6, 1, 5, 5, 7, 3, 3]),
            EmailProtection | SMime => Encoding::Identifier(&[1, 3, 6, 1, 5, 5, 7, 3, 4]),
            IpsecEndSystem => Encoding::Identifier(&[1, 3, 6, 1, 5, 5, 7, 3, 5]),
            IpsecTunnel => Encoding::Identifier(&[1, 3, 6, 1, 5, 5, 7, 3, 6]),
            IpsecUser => Encoding::Identifier(&[1, 3, 6, 1, 5, 5, 7, 3, 7]),
            Timestamping => Encoding::Identifier(&[1, 3, 6, 1, 5, 5, 7, 3, 8]),
            OcspSigning => Encoding::Identifier(&[1, 3, 6, 1, 5, 5, 7, 3, 9]),
            MicrosoftSgc => Encoding::Identifier(&[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
            NetscapeSgc => Encoding::Identifier(&[2, 16, 840, 1, 113730, 4, 1]),
        }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A usage that Kubernetes does not know.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown key usage {0:?}")]
pub struct UnknownUsage(pub String);

impl FromStr for Usage {
    type Err = UnknownUsage;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        NAMES.iter().find(|(_, name)| *name == text).map(|(usage, _)| *usage).ok_or_else(|| UnknownUsage(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usage_is_found_by_its_name() {
        for (usage, name) in NAMES {
            assert_eq!(name.parse(), Ok(*usage));
            assert_eq!(usage.to_string(), *name);
        }
        assert!("world peace".parse::<Usage>().is_err());
    }
}
