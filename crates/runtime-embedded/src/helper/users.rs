//! Who a container's first process is: the image's `USER`, what the pod says instead, and the image's own lists of users
//! and groups.

use std::{io, path::Path};

use container_runtime::SecurityContext;

use crate::inside::Root;

/// Longest `/etc/passwd` or `/etc/group` that is read, in bytes.
const MAX_LIST_BYTES: u64 = 16 * 1024 * 1024;

/// The identity of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub user: u32,
    /// Primary group.
    pub group: u32,
    /// Supplementary groups, without doubles.
    pub groups: Vec<u32>,
    /// Home directory; `/` where nobody says.
    pub home: String,
}

/// Finds out the identity in an image's root.
///
/// # Errors
/// A sentence, where a name is unknown or a number out of range.
pub fn identity(root: &Root, image_user: &str, security: &SecurityContext) -> Result<Identity, String> {
    let read = |path: &str| -> Result<String, String> {
        let bytes = root.read(Path::new(path), MAX_LIST_BYTES).map_err(|error: io::Error| format!("could not read the image's {path}: {error}"))?;
        Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
    };
    resolve(&read("/etc/passwd")?, &read("/etc/group")?, image_user, security)
}

/// A line of `/etc/passwd`.
struct User<'a> {
    name: &'a str,
    user: u32,
    group: u32,
    home: &'a str,
}

fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, user, group, _comment, home) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(User { name, user: user.parse().ok()?, group: group.parse().ok()?, home })
    })
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, number, members) = (fields.next()?, fields.next()?, fields.next()?, fields.next().unwrap_or(""));
        Some((name, number.parse().ok()?, members))
    })
}

fn resolve(passwd: &str, group_list: &str, image_user: &str, security: &SecurityContext) -> Result<Identity, String> {
    let number = |value: i64| u32::try_from(value).map_err(|_| format!("{value} is not a user or group number"));
    let (user_word, group_word) = match security.run_as_user {
        // The image's group belongs to the image's user.
        Some(user) => (number(user)?.to_string(), None),
        None => match image_user.split_once(':') {
            Some((user, group)) => (user.to_owned(), Some(group.to_owned()).filter(|group| !group.is_empty())),
            None => (image_user.to_owned(), None),
        },
    };
    let known = match user_word.parse::<u32>() {
        Ok(user) => users(passwd).find(|known| known.user == user),
        Err(_) if user_word.is_empty() => users(passwd).find(|known| known.user == 0),
        Err(_) => users(passwd).find(|known| known.name == user_word),
    };
    let user = match (&known, user_word.parse::<u32>()) {
        (Some(known), _) => known.user,
        (None, Ok(user)) => user,
        (None, Err(_)) if user_word.is_empty() => 0,
        (None, Err(_)) => return Err(format!("unable to find user {user_word}: no matching entries in passwd file")),
    };
    let image_group = match group_word {
        Some(word) => match groups(group_list).find(|(name, number, _)| *name == word || number.to_string() == word) {
            Some((_, number, _)) => Some(number),
            None => Some(word.parse().map_err(|_| format!("unable to find group {word}: no matching entries in group file"))?),
        },
        None => None,
    };
    let group = match security.run_as_group {
        Some(group) => number(group)?,
        None => image_group.or(known.as_ref().map(|known| known.group)).unwrap_or(0),
    };
    let mut supplementary = Vec::new();
    if let Some(known) = known.as_ref().filter(|_| !security.strict_groups) {
        supplementary.extend(groups(group_list).filter(|(_, _, members)| members.split(',').any(|member| member == known.name)).map(|(_, number, _)| number));
    }
    for extra in &security.supplemental_groups {
        supplementary.push(number(*extra)?);
    }
    let mut seen = std::collections::BTreeSet::new();
    supplementary.retain(|group| seen.insert(*group));
    let home = known.map(|known| known.home.to_owned()).filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned());
    Ok(Identity { user, group, groups: supplementary, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:101:102:web:/var/web:/sbin/nologin\n";
    const GROUP: &str = "root:x:0:root\nwww:x:102:\nmedia:x:300:web,other\naudio:x:301:web\n";

    #[track_caller]
    fn check(image_user: &str, security: &SecurityContext, user: u32, group: u32, groups: &[u32], home: &str) {
        let expected = Identity { user, group, groups: groups.to_vec(), home: home.to_owned() };
        assert_eq!(resolve(PASSWD, GROUP, image_user, security), Ok(expected));
    }

    #[test]
    fn the_images_user_is_looked_up() {
        let nothing = SecurityContext::default();
        check("", &nothing, 0, 0, &[0], "/root");
        check("web", &nothing, 101, 102, &[300, 301], "/var/web");
        check("101", &nothing, 101, 102, &[300, 301], "/var/web");
        check("web:media", &nothing, 101, 300, &[300, 301], "/var/web");
        check("5000:6000", &nothing, 5000, 6000, &[], "/");
    }

    #[test]
    fn the_pod_decides_where_it_says_something() {
        let user = SecurityContext { run_as_user: Some(101), supplemental_groups: vec![7, 300, 7], ..SecurityContext::default() };
        check("root:root", &user, 101, 102, &[300, 301, 7], "/var/web");
        check("root", &SecurityContext { run_as_group: Some(9), ..user.clone() }, 101, 9, &[300, 301, 7], "/var/web");
        check("root", &SecurityContext { strict_groups: true, ..user }, 101, 102, &[7, 300], "/var/web");
        check("web", &SecurityContext { run_as_user: Some(4000), ..SecurityContext::default() }, 4000, 0, &[], "/");
    }

    #[test]
    fn unknown_names_are_told() {
        let error = resolve(PASSWD, GROUP, "nobody", &SecurityContext::default()).unwrap_err();
        assert_eq!(error, "unable to find user nobody: no matching entries in passwd file");
        assert!(resolve(PASSWD, GROUP, "web:nobodies", &SecurityContext::default()).is_err());
        assert!(resolve(PASSWD, GROUP, "", &SecurityContext { run_as_user: Some(-1), ..SecurityContext::default() }).is_err());
    }
}
