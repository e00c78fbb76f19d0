//! What a change of the cluster does to the table, operation by operation.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

fn state() -> State {
    let mut state = State::new(Options {
        cluster: "c".to_owned(),
        node_name: "a".to_owned(),
        cluster_ranges: vec!["10.244.0.0/16".parse().unwrap()],
        served_here: vec!["10.96.0.10".parse().unwrap()],
        ..Options::default()
    });
    let _ = state.plan();
    state
}

fn service(state: &mut State, name: &str, spec: Value) {
    let object = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
    state.apply_service(&serde_json::from_value(object).unwrap());
}

/// Backends such as `10.244.0.5@a`.
fn slice(state: &mut State, service: &str, backends: &[&str]) {
    let endpoints: Vec<Value> = backends
        .iter()
        .map(|text| {
            let (address, node) = text.split_once('@').unwrap();
            json!({"addresses": [address], "nodeName": node})
        })
        .collect();
    let object = json!({"metadata": {"name": format!("{service}-1"), "namespace": "shop",
        "labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4",
        "ports": [{"port": 8080}], "endpoints": endpoints});
    state.apply_slice(&serde_json::from_value(object).unwrap());
}

fn web() -> Value {
    json!({"clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}]})
}

#[track_caller]
fn check(state: &mut State, expected: Expect) {
    expected.assert_eq(&state.plan().transaction.to_string());
}

#[test]
fn a_new_service_gets_a_chain_and_an_entry() {
    let mut state = state();
    service(&mut state, "web", web());
    check(&mut state, expect![[r#"
        add to cluster-addresses4: 10.96.0.7
    "#]]);
    slice(&mut state, "web", &["10.244.0.5@a", "10.244.1.6@b"]);
    check(&mut state, expect![[r#"
        add chain service4/shop/web/tcp/80
        add rule service4/shop/web/tcp/80: r0 = family; r0 == 0x02; r0 = protocol; r0 == 0x06; r0 = random below 2; r0 = { 0 : 10.244.0.5 . 8080, 1 : 10.244.1.6 . 8080 }[r0]; dnat ip to r0 port r1
        add to hairpin4: 10.244.0.5 . 10.244.0.5
        add to services4: 10.96.0.7 . tcp . 80 : goto service4/shop/web/tcp/80
    "#]]);
}

#[test]
fn load_balancers_are_told_of_ready_endpoints_on_this_node() {
    let mut state = state();
    let balanced = |policy: &str| {
        json!({"type": "LoadBalancer", "externalTrafficPolicy": policy, "healthCheckNodePort": 30007,
            "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}]})
    };
    let told = |state: &State| {
        let all = state.health().into_iter();
        all.map(|(port, health)| (port, health.service.to_string(), health.local_endpoints)).collect::<Vec<_>>()
    };
    service(&mut state, "web", balanced("Local"));
    assert_eq!(told(&state), [(30007, "shop/web".to_owned(), 0)]);
    slice(&mut state, "web", &["10.244.0.5@a", "10.244.1.6@b"]);
    assert_eq!(told(&state), [(30007, "shop/web".to_owned(), 1)]);
    service(&mut state, "web", balanced("Cluster"));
    assert_eq!(told(&state), []);
    service(&mut state, "web", balanced("Local"));
    state.delete_service(&ObjectKey::namespaced("shop", "web"));
    assert_eq!(told(&state), []);
}

#[test]
fn nothing_is_done_for_what_changes_nothing() {
    let mut state = state();
    service(&mut state, "web", web());
    slice(&mut state, "web", &["10.244.0.5@a"]);
    let _ = state.plan();
    service(&mut state, "web", web());
    slice(&mut state, "web", &["10.244.0.5@a"]);
    check(&mut state, expect![[""]]);
    // Headless, external and foreign services are not ours, nor is what this node serves itself.
    service(&mut state, "headless", json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}));
    service(&mut state, "out", json!({"type": "ExternalName", "externalName": "example.com"}));
    service(&mut state, "dns", json!({"clusterIPs": ["10.96.0.10"], "ports": [{"port": 53}]}));
    slice(&mut state, "dns", &["10.244.0.5@a"]);
    check(&mut state, expect![[""]]);
}

#[test]
fn one_changed_endpoint_touches_one_chain() {
    let mut state = state();
    for (name, address) in [("web", "10.96.0.7"), ("api", "10.96.0.8")] {
        service(&mut state, name, json!({"clusterIPs": [address], "ports": [{"port": 80}]}));
        slice(&mut state, name, &["10.244.1.5@b", "10.244.1.6@b"]);
    }
    let _ = state.plan();
    slice(&mut state, "web", &["10.244.1.5@b", "10.244.1.7@b"]);
    check(&mut state, expect![[r#"
        flush chain service4/shop/web/tcp/80
        add rule service4/shop/web/tcp/80: r0 = family; r0 == 0x02; r0 = protocol; r0 == 0x06; r0 = random below 2; r0 = { 0 : 10.244.1.5 . 8080, 1 : 10.244.1.7 . 8080 }[r0]; dnat ip to r0 port r1
    "#]]);
    slice(&mut state, "web", &[]);
    check(&mut state, expect![[r#"
        delete from services4: 10.96.0.7 . tcp . 80 : goto service4/shop/web/tcp/80
        flush chain service4/shop/web/tcp/80
        delete chain service4/shop/web/tcp/80
    "#]]);
}

#[test]
fn a_node_port_of_local_policy_knows_who_is_outside() {
    let mut state = state();
    service(
        &mut state,
        "web",
        json!({"type": "NodePort", "clusterIPs": ["10.96.0.7"], "externalTrafficPolicy": "Local",
               "ports": [{"port": 80, "nodePort": 30080}]}),
    );
    slice(&mut state, "web", &["10.244.0.5@a", "10.244.1.6@b"]);
    check(&mut state, expect![[r#"
        add chain external4/shop/web/tcp/80
        add chain local4/shop/web/tcp/80
        add chain service4/shop/web/tcp/80
        add rule external4/shop/web/tcp/80: r0 = family; r0 == 0x02; r0 = ip saddr; r0 in @pods4; goto service4/shop/web/tcp/80
        add rule external4/shop/web/tcp/80: r0 = family; r0 == 0x02; r0 = fib saddr type; r0 == 0x02000000; r0 = ct mark; r0 = (r0 & 0xffbfffff) ^ 0x00400000; ct mark = r0; goto service4/shop/web/tcp/80
        add rule external4/shop/web/tcp/80: r0 = family; r0 == 0x02; goto local4/shop/web/tcp/80
        add rule local4/shop/web/tcp/80: r0 = family; r0 == 0x02; r0 = protocol; r0 == 0x06; r0 = 0x0af40005; r1 = 0x1f90; dnat ip to r0 port r1
        add rule service4/shop/web/tcp/80: r0 = family; r0 == 0x02; r0 = protocol; r0 == 0x06; r0 = random below 2; r0 = { 0 : 10.244.0.5 . 8080, 1 : 10.244.1.6 . 8080 }[r0]; dnat ip to r0 port r1
        add to cluster-addresses4: 10.96.0.7
        add to hairpin4: 10.244.0.5 . 10.244.0.5
        add to node-ports4: tcp . 30080 : goto external4/shop/web/tcp/80
        add to services4: 10.96.0.7 . tcp . 80 : goto service4/shop/web/tcp/80
    "#]]);
}

#[test]
fn clients_are_remembered_in_a_set_for_each_endpoint() {
    let mut state = state();
    let affine = |seconds: u32| {
        json!({"clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}], "sessionAffinity": "ClientIP",
               "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}})
    };
    service(&mut state, "web", affine(60));
    slice(&mut state, "web", &["10.244.1.5@b", "10.244.1.6@b"]);
    check(&mut state, expect![[r#"
        add set clients/service4/shop/web/tcp/80/10.244.1.5.8080 { type ipv4_addr; flags dynamic,timeout; timeout 60s }
        add set clients/service4/shop/web/tcp/80/10.244.1.6.8080 { type ipv4_addr; flags dynamic,timeout; timeout 60s }
        add chain service4/shop/web/tcp/80
        add chain service4/shop/web/tcp/80/10.244.1.5.8080
        add chain service4/shop/web/tcp/80/10.244.1.6.8080
        add rule service4/shop/web/tcp/80: r0 = family; r0 == 0x02; r0 = ip saddr; r0 in @clients/service4/shop/web/tcp/80/10.244.1.5.8080; goto service4/shop/web/tcp/80/10.244.1.5.8080
        add rule service4/shop/web/tcp/80: r0 = family; r0 == 0x02; r0 = ip saddr; r0 in @clients/service4/shop/web/tcp/80/10.244.1.6.8080; goto service4/shop/web/tcp/80/10.244.1.6.8080
        add rule service4/shop/web/tcp/80: r0 = random below 2; r0 vmap { 0 : goto service4/shop/web/tcp/80/10.244.1.5.8080, 1 : goto service4/shop/web/tcp/80/10.244.1.6.8080 }
        add rule service4/shop/web/tcp/80/10.244.1.5.8080: r0 = family; r0 == 0x02; r0 = ip saddr; update @clients/service4/shop/web/tcp/80/10.244.1.5.8080[r0]
        add rule service4/shop/web/tcp/80/10.244.1.5.8080: r0 = family; r0 == 0x02; r0 = protocol; r0 == 0x06; r0 = 0x0af40105; r1 = 0x1f90; dnat ip to r0 port r1
        add rule service4/shop/web/tcp/80/10.244.1.6.8080: r0 = family; r0 == 0x02; r0 = ip saddr; update @clients/service4/shop/web/tcp/80/10.244.1.6.8080[r0]
        add rule service4/shop/web/tcp/80/10.244.1.6.8080: r0 = family; r0 == 0x02; r0 = protocol; r0 == 0x06; r0 = 0x0af40106; r1 = 0x1f90; dnat ip to r0 port r1
        add to cluster-addresses4: 10.96.0.7
        add to services4: 10.96.0.7 . tcp . 80 : goto service4/shop/web/tcp/80
    "#]]);
    slice(&mut state, "web", &["10.244.1.5@b", "10.244.1.6@b", "10.244.1.7@b"]);
    check(&mut state, expect![[r#"
        add set clients/service4/shop/web/tcp/80/10.244.1.7.8080 { type ipv4_addr; flags dynamic,timeout; timeout 60s }
        add chain service4/shop/web/tcp/80/10.244.1.7.8080
        flush chain service4/shop/web/tcp/80
        add rule service4/shop/web/tcp/80: r0 = family; r0 == 0x02; r0 = ip saddr; r0 in @clients/service4/shop/web/tcp/80/10.244.1.5.8080; goto service4/shop/web/tcp/80/10.244.1.5.8080
        add rule service4/shop/web/tcp/80: r0 = family; r0 == 0x02; r0 = ip saddr; r0 in @clients/service4/shop/web/tcp/80/10.244.1.6.8080; goto service4/shop/web/tcp/80/10.244.1.6.8080
        add rule service4/shop/web/tcp/80: r0 = family; r0 == 0x02; r0 = ip saddr; r0 in @clients/service4/shop/web/tcp/80/10.244.1.7.8080; goto service4/shop/web/tcp/80/10.244.1.7.8080
        add rule service4/shop/web/tcp/80: r0 = random below 3; r0 vmap { 0 : goto service4/shop/web/tcp/80/10.244.1.5.8080, 1 : goto service4/shop/web/tcp/80/10.244.1.6.8080, 2 : goto service4/shop/web/tcp/80/10.244.1.7.8080 }
        add rule service4/shop/web/tcp/80/10.244.1.7.8080: r0 = family; r0 == 0x02; r0 = ip saddr; update @clients/service4/shop/web/tcp/80/10.244.1.7.8080[r0]
        add rule service4/shop/web/tcp/80/10.244.1.7.8080: r0 = family; r0 == 0x02; r0 = protocol; r0 == 0x06; r0 = 0x0af40107; r1 = 0x1f90; dnat ip to r0 port r1
    "#]]);
}

#[test]
fn an_address_that_two_services_want_belongs_to_the_first_until_it_lets_go() {
    let mut state = state();
    let wants = |address: &str| json!({"clusterIPs": [address], "externalIPs": ["203.0.113.5"], "ports": [{"port": 80}]});
    service(&mut state, "b", wants("10.96.0.8"));
    slice(&mut state, "b", &["10.244.1.6@b"]);
    let _ = state.plan();
    service(&mut state, "a", wants("10.96.0.7"));
    slice(&mut state, "a", &["10.244.1.5@b"]);
    let taken = state.plan().transaction.to_string();
    assert!(taken.contains("delete from services4: 203.0.113.5 . tcp . 80 : goto external4/shop/b/tcp/80"), "{taken}");
    assert!(taken.contains("203.0.113.5 . tcp . 80 : goto external4/shop/a/tcp/80"), "{taken}");
    state.delete_service(&ObjectKey::namespaced("shop", "a"));
    let given_back = state.plan().transaction.to_string();
    assert!(given_back.contains("add to services4: 203.0.113.5 . tcp . 80 : goto external4/shop/b/tcp/80"), "{given_back}");
}

#[test]
fn a_table_that_is_not_trusted_is_made_anew_with_everything() {
    let mut state = state();
    service(&mut state, "web", web());
    slice(&mut state, "web", &["10.244.0.5@a"]);
    let _ = state.plan();
    state.distrust();
    let whole = state.plan().transaction.to_string();
    assert!(whole.starts_with("add table\ndelete table\nadd table\n"), "{whole}");
    assert!(whole.contains("10.96.0.7 . tcp . 80 : goto service4/shop/web/tcp/80"), "{whole}");
    check(&mut state, expect![[""]]);
}
