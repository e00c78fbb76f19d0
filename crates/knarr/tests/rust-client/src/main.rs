//! A client (`rust-client client`) and an operator (`rust-client operator`) written with kube.

mod client;
mod election;
mod operator;
mod webhooks;
mod wire;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("client") => client::run().await,
        Some("operator") => operator::run().await,
        _ => anyhow::bail!("say client or operator"),
    }
}
