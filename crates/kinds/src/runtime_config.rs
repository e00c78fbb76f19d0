//! Which groups, versions and resources are served: `--runtime-config`, read as upstream reads it.
//!
//! What is stable is served, and what is not is not, unless it is named here.
//! Source: Kubernetes `apiserver/pkg/server/resourceconfig/helpers.go` and `apiserver/pkg/server/options/api_enablement.go`.

use std::collections::BTreeMap;

use api::Maturity;

use crate::scheme::KindInfo;

/// What is switched on and off. The default serves what is stable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// `api/all`, and `api/ga`, `api/beta` and `api/alpha`, which win over it.
    all: Option<bool>,
    maturities: BTreeMap<Maturity, bool>,
    /// Group (empty for core) and version.
    versions: BTreeMap<(String, String), bool>,
    /// Group, version and plural name.
    resources: BTreeMap<(String, String, String), bool>,
}

/// Why settings cannot be used, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeConfigError {
    /// Nothing would be left to serve.
    #[error("invalid key with only api/all=false")]
    NothingLeft,
    /// Neither a class, nor a group and version, nor a resource.
    #[error("runtime-config invalid key {0}")]
    Key(String),
    /// A class of versions that is neither `true` nor `false`.
    #[error("invalid value {0}={1}")]
    ClassValue(String, String),
    /// Something that is neither `true` nor `false`.
    #[error("invalid value of {0}: {1}, err: strconv.ParseBool: parsing {1:?}: invalid syntax")]
    Value(String, String),
    /// There are no such groups.
    #[error("unknown api groups {0}")]
    UnknownGroups(String),
    /// There is no such version of a group.
    #[error("group version {0} that has not been registered")]
    UnknownVersion(String),
    /// A resource is not written as it is in paths.
    #[error("invalid key {0}: group/version/resource and resource is always lowercase plural, not {1:?}")]
    Resource(String, String),
}

impl RuntimeConfig {
    /// Reads settings such as `api/beta=true,networking.k8s.io/v1beta1=false`; of a key that comes twice, the last one holds. The core
    /// group's version is `v1` or `/v1`.
    ///
    /// # Errors
    /// A setting that means nothing.
    pub fn parse(text: &str) -> Result<Self, RuntimeConfigError> {
        let settings = text.split(',').map(str::trim).filter(|setting| !setting.is_empty());
        let settings: BTreeMap<&str, &str> = settings.map(|setting| setting.split_once('=').unwrap_or((setting, ""))).collect();
        if settings.len() == 1 && settings.get("api/all") == Some(&"false") {
            return Err(RuntimeConfigError::NothingLeft);
        }
        let mut config = Self::default();
        let mut unknown = Vec::new();
        for (key, value) in settings {
            let class = match key {
                "api/all" => Some(None),
                "api/ga" => Some(Some(Maturity::Stable)),
                "api/beta" => Some(Some(Maturity::Beta)),
                "api/alpha" => Some(Some(Maturity::Alpha)),
                _ => None,
            };
            if let Some(class) = class {
                let on = match value {
                    "true" => true,
                    "false" => false,
                    _ => return Err(RuntimeConfigError::ClassValue(key.to_owned(), value.to_owned())),
                };
                match class {
                    Some(maturity) => drop(config.maturities.insert(maturity, on)),
                    None => config.all = Some(on),
                }
                continue;
            }
            let parts: Vec<&str> = key.split('/').collect();
            let (group, version, plural) = match parts[..] {
                ["v1"] => ("", "v1", None),
                [group, version] => (group, version, None),
                [group, version, plural] => (group, version, Some(plural)),
                _ => return Err(RuntimeConfigError::Key(key.to_owned())),
            };
            let mut of_group = api::resources().iter().filter(|resource| resource.group == group).peekable();
            if of_group.peek().is_none() {
                unknown.push(group);
                continue;
            }
            if !of_group.any(|resource| resource.version == version) {
                return Err(RuntimeConfigError::UnknownVersion(format!("{group}/{version}")));
            }
            let on = match value {
                "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                _ => return Err(RuntimeConfigError::Value(key.to_owned(), value.to_owned())),
            };
            let (group, version) = (group.to_owned(), version.to_owned());
            match plural {
                None => drop(config.versions.insert((group, version), on)),
                Some(plural) if plural.to_lowercase() != plural => {
                    return Err(RuntimeConfigError::Resource(key.to_owned(), plural.to_owned()));
                }
                Some(plural) => drop(config.resources.insert((group, version, plural.to_owned()), on)),
            }
        }
        if unknown.is_empty() { Ok(config) } else { Err(RuntimeConfigError::UnknownGroups(unknown.join(","))) }
    }

    /// Whether a kind is served. What is said of a resource wins over its version, that over its maturity, and that over `api/all`.
    pub fn serves(&self, kind: &KindInfo) -> bool {
        self.serves_resource(&kind.kind.group, &kind.kind.version, &kind.plural)
    }

    /// As [`RuntimeConfig::serves`], by the names of group, version and resource.
    pub fn serves_resource(&self, group: &str, version: &str, plural: &str) -> bool {
        let (group, version) = (group.to_owned(), version.to_owned());
        let maturity = api::maturity(&version);
        let resource = (group.clone(), version.clone(), plural.to_owned());
        let said = self.resources.get(&resource).or_else(|| self.versions.get(&(group, version)));
        let said = said.or_else(|| self.maturities.get(&maturity)).copied().or(self.all);
        said.unwrap_or(maturity == Maturity::Stable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serves(config: &str, group: &str, version: &str, kind: &str) -> bool {
        RuntimeConfig::parse(config).unwrap().serves(&crate::served::facts(group, version, kind).0)
    }

    #[test]
    fn stable_versions_are_served_and_others_when_asked_for() {
        let bundles = |config: &str| serves(config, "certificates.k8s.io", "v1beta1", "ClusterTrustBundle");
        assert!(serves("", "apps", "v1", "Deployment") && !bundles(""));
        for on in ["api/beta=true", "api/all=true", "certificates.k8s.io/v1beta1=true", "certificates.k8s.io/v1beta1"] {
            assert!(bundles(on), "{on}");
        }
        assert!(!bundles("api/beta=true,certificates.k8s.io/v1beta1=false"));
        assert!(!bundles("api/alpha=true") && !bundles("api/all=true,api/beta=false"));
        assert!(bundles("certificates.k8s.io/v1beta1=false,certificates.k8s.io/v1beta1/clustertrustbundles=true"));
        assert!(!serves("apps/v1=false", "apps", "v1", "Deployment"));
        assert!(!serves("apps/v1/deployments=false", "apps", "v1", "Deployment"));
        assert!(serves("apps/v1/deployments=false", "apps", "v1", "DaemonSet"));
        assert!(!serves("api/all=false,/v1=true", "apps", "v1", "Deployment") && serves("api/all=false,v1=true", "", "v1", "Pod"));
    }

    #[test]
    fn settings_that_mean_nothing_are_refused_in_upstreams_words() {
        for (wrong, words) in [
            ("api/all=false", "invalid key with only api/all=false"),
            ("beta", "runtime-config invalid key beta"),
            ("a/b/c/d=true", "runtime-config invalid key a/b/c/d"),
            ("api/beta=yes", "invalid value api/beta=yes"),
            ("apps/v7=true", "group version apps/v7 that has not been registered"),
            ("shoes.example.com/v1=true,hats/v1=true", "unknown api groups hats,shoes.example.com"),
            ("apps/v1=yes", "invalid value of apps/v1: yes, err: strconv.ParseBool: parsing \"yes\": invalid syntax"),
            (
                "apps/v1/Deployment=true",
                "invalid key apps/v1/Deployment: group/version/resource and resource is always lowercase plural, not \"Deployment\"",
            ),
        ] {
            assert_eq!(RuntimeConfig::parse(wrong).map_err(|error| error.to_string()), Err(words.to_owned()));
        }
    }
}
