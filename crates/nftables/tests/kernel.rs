//! Transactions against the real kernel, in a network namespace that ends with the thread. Needs root.

use std::{process::Command, time::Duration};

use nftables::{
    ChainKind, Comparison, DynamicUpdate, Element, Field, Hook, KernelRuleset, KeyBytes, Operation, Register,
    RejectWith, Rule, Ruleset, Set, Transaction, Verdict,
};

/// Runs work on a thread in a fresh network namespace.
fn in_fresh_namespace(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("these tests need root");
            work();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn listed() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output().expect("the nft program, to look at rules");
    assert!(output.status.success(), "{:?}", output);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn everything() -> Transaction {
    let mut transaction = Transaction::replacing("knarr-test");
    let address = |text: &str| KeyBytes::address(text.parse().expect("address"));
    transaction
        .set(Set::verdict_map("services", vec![Field::Ipv4, Field::Protocol, Field::Port]))
        .set(Set::verdict_map("services6", vec![Field::Ipv6, Field::Protocol, Field::Port]))
        .set(Set::ranges("pods", Field::Ipv4))
        .set(Set::ranges("pods6", Field::Ipv6))
        .set(Set::new("hairpin", vec![Field::Ipv4, Field::Ipv4]))
        .set(Set::new("affinity", vec![Field::Ipv4]).filled_by_rules(Duration::from_secs(10800), 65535))
        .set(Set::map("host-ports", vec![Field::Protocol, Field::Port], vec![Field::Ipv4, Field::Port]))
        .chain("web")
        .chain("endpoint")
        .chain("refuse")
        .base_chain("prerouting", ChainKind::Nat, Hook::Prerouting, -100)
        .base_chain("postrouting", ChainKind::Nat, Hook::Postrouting, 100)
        .base_chain("early", ChainKind::Filter, Hook::Prerouting, -110)
        .rule("web", Rule::new().family(true).source_within("10.244.0.0/15".parse().unwrap(), Comparison::NotEqual).mark_flow(0x4000))
        .rule(
            "web",
            Rule::new()
                .family(true)
                .source_in(true, "affinity", false)
                .verdict(Verdict::Goto("endpoint".to_owned())),
        )
        .rule(
            "web",
            Rule::new().random_verdict(vec![Verdict::Goto("endpoint".to_owned()), Verdict::Drop]),
        )
        .rule(
            "endpoint",
            Rule::new().family(true).load_source(true, Register(0)).update(DynamicUpdate {
                set: "affinity".to_owned(),
                key: Register(0),
                value: None,
                timeout: None,
            }),
        )
        .rule(
            "endpoint",
            Rule::new()
                .protocol(6)
                .load(&address("10.244.0.5"), Register(0))
                .load(&KeyBytes::port(80), Register(1))
                .destination_nat(true, Register(0), Some(Register(1))),
        )
        .rule(
            "web",
            Rule::new()
                .random_of(
                    &[address("10.244.0.5").and_port(80), address("10.244.1.5").and_port(8080)],
                    &[Field::Ipv4, Field::Port],
                    Register(0),
                )
                .destination_nat(true, Register(0), Some(Register(1))),
        )
        .rule("refuse", Rule::new().protocol(6).reject(RejectWith::TcpReset))
        .rule("refuse", Rule::new().reject(RejectWith::PortUnreachable))
        .rule("early", Rule::new().new_flow().verdict(Verdict::Jump("refuse".to_owned())))
        .rule("prerouting", Rule::new().family(true).load_destination_key(true).verdict_map("services"))
        .rule("prerouting", Rule::new().family(false).load_destination_key(false).verdict_map("services6"))
        .rule("postrouting", Rule::new().flow_marked(0x4000).masquerade())
        .rule(
            "postrouting",
            Rule::new()
                .family(true)
                .load_source(true, Register(0))
                .load_destination(true, Register(1))
                .lookup("hairpin", Register(0), false)
                .masquerade(),
        )
        .rule(
            "postrouting",
            Rule::new()
                .family(true)
                .source_in(true, "pods", false)
                .destination_in(true, "pods", true)
                .output_link("lo", Comparison::NotEqual)
                .masquerade(),
        )
        .rule(
            "postrouting",
            Rule::new()
                .family(false)
                .source_within("fd00:10::/36".parse().unwrap(), Comparison::Equal)
                .to_this_host()
                .verdict(Verdict::Accept),
        )
        .elements("pods", Element::range("10.244.0.0/16".parse().unwrap()))
        .elements("pods6", Element::range("fd00::/8".parse().unwrap()))
        .elements("hairpin", vec![Element::key(address("10.244.0.5").and_address("10.244.0.5".parse().unwrap()))])
        .elements(
            "services",
            vec![Element::verdict(
                address("10.96.0.1").and_protocol(6).and_port(443),
                Verdict::Goto("web".to_owned()),
            )],
        )
        .elements(
            "services6",
            vec![Element::verdict(
                address("fd00::1").and_protocol(17).and_port(53),
                Verdict::Goto("web".to_owned()),
            )],
        )
        .elements(
            "host-ports",
            vec![Element::value(KeyBytes::protocol(6).and_port(8080), address("10.244.0.5").and_port(80))],
        );
    transaction
}

#[test]
fn the_kernel_holds_what_was_sent_and_a_repetition_changes_nothing() {
    in_fresh_namespace(|| {
        let ruleset = KernelRuleset::open().expect("netlink");
        ruleset.commit(&everything()).expect("commit");
        let first = listed();
        ruleset.commit(&everything()).expect("commit again");
        let second = listed();
        assert_eq!(first, second);
        expect_test::expect_file!["kernel.ruleset"].assert_eq(&first);
        ruleset.commit(&Transaction::removing("knarr-test")).expect("remove");
        assert_eq!(listed(), "");
    });
}

#[test]
fn a_transaction_with_one_wrong_change_changes_nothing_and_names_it() {
    in_fresh_namespace(|| {
        let ruleset = KernelRuleset::open().expect("netlink");
        ruleset.commit(&everything()).expect("commit");
        let before = listed();
        let mut transaction = Transaction::new("knarr-test");
        transaction.chain("new").push(Operation::DeleteChain("no-such-chain".to_owned())).chain("newer");
        let error = ruleset.commit(&transaction).expect_err("a missing chain");
        let source = std::error::Error::source(&error).expect("source").to_string();
        assert!(source.contains("delete chain no-such-chain"), "{source}");
        assert_eq!(listed(), before);
    });
}

#[test]
fn thousands_of_elements_and_chains_fit_into_one_transaction() {
    in_fresh_namespace(|| {
        let ruleset = KernelRuleset::open().expect("netlink");
        ruleset.commit(&everything()).expect("commit");
        let mut transaction = Transaction::new("knarr-test");
        let mut elements = Vec::new();
        for number in 0..3000_u32 {
            let name = format!("service-{number}");
            transaction.chain(&name).rule(&name, Rule::new().verdict(Verdict::Accept));
            let address = std::net::Ipv4Addr::from(0x0a60_1000 + number);
            elements.push(Element::verdict(
                KeyBytes::address(address.into()).and_protocol(6).and_port(80),
                Verdict::Goto(name),
            ));
        }
        transaction.elements("services", elements);
        ruleset.commit(&transaction).expect("a large transaction");
        let listed = listed();
        assert!(listed.contains("10.96.27.183 . tcp . 80 : goto service-2999"), "{}", listed.get(..3000).unwrap_or(&listed));
    });
}
