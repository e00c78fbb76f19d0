use super::*;
use crate::tests::{context, within};
use client::fake::FakeApi;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use client::{Api, PostParams};

/// A cluster with a garbage collector, in which a ConfigMap owns a Secret, which blocks it.
struct World {
    fake: FakeApi,
    context: ControllerContext,
    runner: Runner,
}

impl World {
    async fn new() -> Self {
        Self::with(Content::default(), FakeApi::new(), PATIENCE)
    }

    fn with(content: Content, fake: FakeApi, patience: Duration) -> Self {
        fake.serve::<ConfigMap>();
        fake.serve::<Secret>();
        fake.serve::<Namespace>();
        let context = context(&fake);
        let runner = context.runner();
        crate::namespace::start(&context, &runner, content.clone());
        start_with(&context, &runner, content, patience);
        Self { fake, context, runner }
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.fake.client(), "x")
    }

    async fn own(&self, owner: &str, dependent: &str) {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(owner.to_owned());
        let map = self.maps().create(&PostParams::default(), &map).await.unwrap();
        self.depend(dependent, controller::ownership::controller_reference(&map)).await;
    }

    async fn depend(&self, dependent: &str, owner: OwnerReference) {
        let mut secret = Secret::default();
        secret.metadata.name = Some(dependent.to_owned());
        secret.metadata.owner_references = Some(vec![owner]);
        Api::<Secret>::namespaced(self.fake.client(), "x").create(&PostParams::default(), &secret).await.unwrap();
    }

    async fn until_left(&self, expected: &[&str]) {
        let names = |fake: &FakeApi| {
            let maps = fake.objects::<ConfigMap>().into_iter().filter_map(|map| map.metadata.name);
            let secrets = fake.objects::<Secret>().into_iter().filter_map(|secret| secret.metadata.name);
            let names: Vec<_> = maps.chain(secrets).collect();
            (names == expected).then_some(())
        };
        within("what is left", self.fake.until(names)).await;
    }

    async fn stop(self) {
        self.context.informers.stopped().cancel();
        within("the end", self.runner.finished()).await;
    }
}

#[tokio::test]
async fn dependents_follow_their_owner_in_the_background() {
    let world = World::new().await;
    world.own("a", "of-a").await;
    world.own("b", "of-b").await;
    world.maps().delete("a", &DeleteParams::background()).await.unwrap();
    world.until_left(&["b", "of-b"]).await;
    world.stop().await;
}

#[tokio::test]
async fn a_kind_that_cannot_be_read_holds_up_no_other() {
    let (fake, content) = (FakeApi::new(), Content::default());
    fake.serve::<Service>();
    fake.fail("GET /api/v1/services", 500);
    let world = World::with(content.clone(), fake, Duration::from_millis(100));
    world.own("a", "of-a").await;
    world.maps().delete("a", &DeleteParams::background()).await.unwrap();
    world.until_left(&[]).await;
    assert_eq!(content.count("", "configmaps", "x"), Some(0));
    assert_eq!(content.count("", "services", "x"), None);
    world.stop().await;
}

#[tokio::test]
async fn an_owner_waits_in_the_foreground() {
    let world = World::new().await;
    world.own("a", "of-a").await;
    world.maps().delete("a", &DeleteParams::foreground()).await.unwrap();
    world.until_left(&[]).await;
    let position = |text: &str| world.fake.writes().iter().position(|write| write.contains(text)).unwrap();
    assert!(position("DELETE /api/v1/namespaces/x/secrets/of-a") < position("PATCH /api/v1/namespaces/x/configmaps/a"));
    world.stop().await;
}

#[tokio::test]
async fn orphans_lose_their_reference_and_stay() {
    let world = World::new().await;
    world.own("a", "of-a").await;
    world.maps().delete("a", &DeleteParams::orphan()).await.unwrap();
    world.until_left(&["of-a"]).await;
    assert!(world.fake.objects::<Secret>()[0].metadata.owner_references.as_ref().is_none_or(Vec::is_empty));
    world.stop().await;
}

#[tokio::test]
async fn an_object_whose_owner_never_was_is_removed_and_one_of_an_unknown_kind_is_not() {
    let world = World::new().await;
    let owner = |kind: &str, api_version: &str| OwnerReference { kind: kind.to_owned(), api_version: api_version.to_owned(), name: "gone".to_owned(), uid: "gone".to_owned(), ..OwnerReference::default() };
    world.depend("known", owner("ConfigMap", "v1")).await;
    world.depend("unknown", owner("Boat", "example.com/v1")).await;
    world.until_left(&["unknown"]).await;
    world.stop().await;
}

#[tokio::test]
async fn nothing_happens_to_an_object_with_an_owner_of_an_unknown_kind() {
    let world = World::new().await;
    let owner = |kind: &str, api_version: &str| OwnerReference { kind: kind.to_owned(), api_version: api_version.to_owned(), name: "gone".to_owned(), uid: format!("gone-{kind}"), ..OwnerReference::default() };
    let mut secret = Secret::default();
    secret.metadata.name = Some("both".to_owned());
    secret.metadata.owner_references = Some(vec![owner("ConfigMap", "v1"), owner("Boat", "example.com/v1")]);
    Api::<Secret>::namespaced(world.fake.client(), "x").create(&PostParams::default(), &secret).await.unwrap();
    // What comes later is judged after it, or at the same time.
    world.depend("later", owner("ConfigMap", "v1")).await;
    world.until_left(&["both"]).await;
    assert_eq!(world.fake.objects::<Secret>()[0].metadata.owner_references.as_ref().map(Vec::len), Some(2));
    world.stop().await;
}

#[tokio::test]
async fn a_reference_that_says_the_wrong_kind_means_nobody() {
    let world = World::new().await;
    world.own("a", "of-a").await;
    let map = world.maps().get("a").await.unwrap();
    world.depend("mistaken", OwnerReference { kind: "Secret".to_owned(), ..controller::ownership::controller_reference(&map) }).await;
    world.until_left(&["a", "of-a"]).await;
    world.stop().await;
}

#[tokio::test]
async fn an_object_that_was_adopted_meanwhile_is_judged_anew_and_one_that_changed_otherwise_goes() {
    let fake = FakeApi::new();
    let context = context(&fake);
    let collector = GarbageCollector {
        client: fake.client(),
        monitors: Monitors::new(fake.client(), Content::default(), context.informers.stopped().clone(), PATIENCE),
        events: context.events("garbage-collector-controller"),
    };
    let secrets = Api::<Secret>::namespaced(fake.client(), "x");
    let mut secret = Secret::default();
    secret.metadata.name = Some("a".to_owned());
    let judged = secrets.create(&PostParams::default(), &secret).await.unwrap();
    let resource = Arc::new(ServedResource { group: String::new(), version: "v1".to_owned(), kind: "Secret".to_owned(), resource: "secrets".to_owned(), namespaced: true, has_scale: false, verbs: Vec::new() });
    let node = Node::read(&resource, &judged.metadata).unwrap();
    let patch = |change: serde_json::Value| Patch::Merge(json!({ "metadata": change }));
    let owners = json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "b", "uid": "b" }]);
    let judged = (judged, secrets.patch("a", &PatchParams::default(), &patch(json!({ "ownerReferences": owners }))).await.unwrap());
    assert_eq!(collector.delete(&node, &judged.0.metadata, PropagationPolicy::Background).await.unwrap(), Outcome::CheckAgainIn(Duration::ZERO));
    assert!(secrets.get_opt("a").await.unwrap().is_some());
    secrets.patch("a", &PatchParams::default(), &patch(json!({ "labels": { "a": "b" } }))).await.unwrap();
    assert_eq!(collector.delete(&node, &judged.1.metadata, PropagationPolicy::Background).await.unwrap(), Outcome::Settled);
    assert!(secrets.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn a_namespace_goes_when_it_is_empty_and_says_what_holds_it_up() {
    let world = World::new().await;
    let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": "x" }, "spec": { "finalizers": ["kubernetes"] } })).unwrap();
    let namespaces = Api::<Namespace>::all(world.fake.client());
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    world.own("a", "of-a").await;
    let held: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "held", "finalizers": ["example.com/mine"] } })).unwrap();
    world.maps().create(&PostParams::default(), &held).await.unwrap();
    namespaces.delete("x", &DeleteParams::default()).await.unwrap();
    let says_why = |fake: &FakeApi| {
        let conditions = fake.objects::<Namespace>().pop()?.status?.conditions?;
        let held = conditions.into_iter().find(|condition| condition.type_ == "NamespaceFinalizersRemaining" && condition.status == "True")?;
        held.message.filter(|message| message.contains("example.com/mine in 1 resource instances"))
    };
    within("a reason", world.fake.until(says_why)).await;
    let freed = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    world.maps().patch("held", &PatchParams::default(), &freed).await.unwrap();
    within("the end of the namespace", world.fake.until(|fake| fake.objects::<Namespace>().is_empty().then_some(()))).await;
    world.until_left(&[]).await;
    world.stop().await;
}
