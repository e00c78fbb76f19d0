//! helm 4: a chart with what charts have, through its life.

use testkit::kubectl::client_program;

use crate::scene;

const FILES: [(&str, &str); 7] = [
    ("Chart.yaml", include_str!("chart/Chart.yaml")),
    ("values.yaml", include_str!("chart/values.yaml")),
    ("crds/widgets.yaml", include_str!("chart/crds/widgets.yaml")),
    ("templates/configuration.yaml", include_str!("chart/templates/configuration.yaml")),
    ("templates/workload.yaml", include_str!("chart/templates/workload.yaml")),
    ("templates/hook.yaml", include_str!("chart/templates/hook.yaml")),
    ("templates/tests/visit.yaml", include_str!("chart/templates/tests/visit.yaml")),
];

#[test]
fn a_chart_is_installed_tested_upgraded_rolled_back_and_uninstalled() {
    let scene = scene("helm");
    for (name, content) in FILES {
        let path = scene.path("chart").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let helm = |words: &str| scene.output(scene.program(client_program("helm")).args(words.split_whitespace()));
    helm("install demo chart --wait --timeout=180s");
    helm("test demo --timeout=180s");
    assert_eq!(scene.at("widget/demo", ".spec.size"), "1");
    helm("upgrade demo chart --set greeting=changed --set replicas=2 --wait --timeout=180s");
    assert_eq!(scene.at("deployment/demo", ".status.readyReplicas"), "2");
    helm("test demo --timeout=180s");
    assert!(helm("history demo").lines().count() == 3);
    helm("rollback demo 1 --wait --timeout=180s");
    assert_eq!(scene.at("configmap/demo", r".data.index\.html"), "hello");
    assert_eq!(scene.at("widget/demo", ".spec.size"), "1");
    helm("test demo --timeout=180s");
    helm("upgrade demo chart --set replicas=1 --server-side=false --wait --timeout=180s");
    assert!(helm("list").contains("deployed"));
    helm("uninstall demo --wait --timeout=180s");
    assert_eq!(scene.k("get deployments,services,configmaps,secrets,serviceaccounts -l part=of-demo -o name"), "");
}
