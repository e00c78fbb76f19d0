use super::*;
use crate::taints::{self, NO_EXECUTE, NO_SCHEDULE};
use crate::tests::{context, within};
use client::FakeClock;
use client::fake::FakeApi;
use jiff::Timestamp;

fn tainted(fake: &FakeApi, effect: &str) -> Vec<Timestamp> {
    let nodes = fake.objects::<Node>();
    let mut times: Vec<_> = nodes.iter().flat_map(taints::of).filter(|taint| taint.effect == effect).map(|taint| taint.time_added.clone().unwrap().0).collect();
    times.sort();
    times
}

#[tokio::test]
async fn of_two_nodes_that_fail_together_the_second_is_emptied_ten_seconds_after_the_first() {
    let fake = FakeApi::new();
    let clock = FakeClock::new(Timestamp::UNIX_EPOCH);
    let context = ControllerContext { clock: Arc::new(clock.clone()), ..context(&fake) };
    let nodes = Api::<Node>::all(fake.client());
    for (name, ready) in [("a", "True"), ("b", "False"), ("c", "False")] {
        let node = json!({ "metadata": { "name": name }, "status": { "conditions": [{ "type": "Ready", "status": ready }] } });
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    }
    let runner = context.runner();
    start(&context, &runner, Duration::from_secs(24 * 3600));
    within("no new pods on either", fake.until(|fake| (tainted(fake, NO_SCHEDULE).len() == 2).then_some(()))).await;
    // The controller's next look may be planned before or after the clock moves, so it moves until that has happened.
    let moving = tokio::spawn(async move {
        loop {
            clock.advance(Duration::from_millis(100));
            tokio::task::yield_now().await;
        }
    });
    let times = within("both emptied", fake.until(|fake| Some(tainted(fake, NO_EXECUTE)).filter(|times| times.len() == 2))).await;
    moving.abort();
    assert!(times[1].duration_since(times[0]) >= jiff::SignedDuration::from_secs(10), "{times:?}");
    context.informers.stopped().cancel();
    within("the end", runner.finished()).await;
}
