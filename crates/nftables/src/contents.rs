//! What a table should hold, and the transaction that leads there from what it holds now: only what differs is touched.

use std::collections::BTreeMap;

use crate::{
    rule::Rule,
    set::{Element, ElementData, KeyBytes, Set},
    transaction::{BaseChain, Operation, Transaction},
};

/// A chain: where it hangs, and its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where it hangs; none for chains that are only jumped to.
    pub base: Option<BaseChain>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// The whole of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Chains by name. One keeps its hook for as long as it is there.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps by name. One keeps its type for as long as it is there.
    pub sets: BTreeMap<String, (Set, BTreeMap<KeyBytes, ElementData>)>,
}

impl Contents {
    /// Adds a set that is to hold these keys.
    pub fn set(&mut self, set: Set, keys: impl IntoIterator<Item = KeyBytes>) {
        let elements = keys.into_iter().map(|key| (key, ElementData::None)).collect();
        self.sets.insert(set.name.clone(), (set, elements));
    }

    /// Appends a rule to a chain, which is made where it is not there.
    pub fn rule(&mut self, chain: &str, rule: Rule) {
        self.chains.entry(chain.to_owned()).or_default().rules.push(rule);
    }

    /// The transaction that makes the table like this: from what it holds, or anew where that is not known.
    pub fn transaction(&self, table: &str, now: Option<&Self>) -> Transaction {
        let (mut transaction, nothing) = match now {
            Some(_) => (Transaction::new(table), Self::default()),
            None => (Transaction::replacing(table), Self::default()),
        };
        let now = now.unwrap_or(&nothing);
        // What is referred to is made before what refers to it, and goes after it.
        for (name, (set, _)) in &self.sets {
            if !now.sets.contains_key(name) {
                transaction.push(Operation::AddSet(set.clone()));
            }
        }
        for (name, chain) in &self.chains {
            if !now.chains.contains_key(name) {
                transaction.push(Operation::AddChain { name: name.clone(), base: chain.base });
            }
        }
        for (name, chain) in &self.chains {
            let before = now.chains.get(name).map(|chain| chain.rules.as_slice()).unwrap_or_default();
            if before != chain.rules.as_slice() {
                if !before.is_empty() {
                    transaction.push(Operation::FlushChain(name.clone()));
                }
                for rule in &chain.rules {
                    transaction.push(Operation::AddRule { chain: name.clone(), rule: rule.clone() });
                }
            }
        }
        for (name, (_, wanted)) in &self.sets {
            let empty = BTreeMap::new();
            let there = now.sets.get(name).map_or(&empty, |(_, elements)| elements);
            let missing_from = |one: &BTreeMap<KeyBytes, ElementData>, other: &BTreeMap<KeyBytes, ElementData>| -> Vec<Element> {
                let differing = one.iter().filter(|(key, data)| other.get(*key) != Some(*data));
                differing.map(|(key, data)| Element { key: key.clone(), data: data.clone() }).collect()
            };
            let gone = missing_from(there, wanted);
            if !gone.is_empty() {
                transaction.push(Operation::DeleteElements { set: name.clone(), elements: gone });
            }
            transaction.elements(name, missing_from(wanted, there));
        }
        let gone = || now.chains.keys().filter(|name| !self.chains.contains_key(*name));
        for name in gone() {
            transaction.push(Operation::FlushChain(name.clone()));
        }
        for name in gone() {
            transaction.push(Operation::DeleteChain(name.clone()));
        }
        for name in now.sets.keys().filter(|name| !self.sets.contains_key(*name)) {
            transaction.push(Operation::DeleteSet(name.clone()));
        }
        transaction
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Field, Verdict};

    fn contents(addresses: &[&str], verdict: Verdict) -> Contents {
        let mut contents = Contents::default();
        contents.set(Set::new("known", vec![Field::Ipv4]), addresses.iter().map(|text| KeyBytes::address(text.parse().unwrap())));
        contents.rule("judge", Rule::new().source_in(true, "known", false).verdict(verdict));
        contents
    }

    #[test]
    fn only_what_differs_is_touched() {
        let before = contents(&["10.0.0.1", "10.0.0.2"], Verdict::Drop);
        assert!(before.transaction("t", Some(&before)).is_empty());
        let after = contents(&["10.0.0.2", "10.0.0.3"], Verdict::Drop);
        assert_eq!(after.transaction("t", Some(&before)).to_string(), "delete from known: 10.0.0.1\nadd to known: 10.0.0.3\n");
    }

    #[test]
    fn what_refers_to_a_set_goes_before_it() {
        let shown = Contents::default().transaction("t", Some(&contents(&["10.0.0.1"], Verdict::Drop))).to_string();
        assert_eq!(shown, "flush chain judge\ndelete chain judge\ndelete set known\n");
    }

    #[test]
    fn an_unknown_table_is_made_anew() {
        let shown = contents(&["10.0.0.1"], Verdict::Drop).transaction("t", None).to_string();
        assert!(shown.starts_with("add table\ndelete table\nadd table\nadd set known"), "{shown}");
    }
}
