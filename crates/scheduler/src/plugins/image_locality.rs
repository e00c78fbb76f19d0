//! ImageLocality: a node that has the pod's images already is liked better, the more so the larger they are; less where few nodes
//! have them, lest they all go there.
//!
//! Source: Kubernetes `scheduler/framework/plugins/imagelocality`.

use crate::{
    cluster::Cluster,
    framework::{Scale, Score},
    node_info::NodeInfo,
    pod_info::PodInfo,
};

const MEBIBYTE: i64 = 1024 * 1024;
/// Less than this is not worth a word.
const LEAST: i64 = 23 * MEBIBYTE;
/// More than this for each container makes no difference.
const MOST_PER_CONTAINER: i64 = 1000 * MEBIBYTE;

/// The plug-in.
pub struct ImageLocality;

/// The name that nodes report: with a tag.
fn full_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

impl Score for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }
    fn weight(&self) -> i64 {
        1
    }
    fn score(&self, pod: &PodInfo, slots: &[usize], cluster: &mut Cluster) -> Option<(Scale, Vec<i64>)> {
        let all = i64::try_from(cluster.len()).unwrap_or(i64::MAX).max(1);
        let names = pod.images.iter().map(|image| full_name(image));
        let known: Vec<(String, i64)> = names.filter_map(|name| cluster.image_nodes.get(&name).map(|count| (name, i64::try_from(*count).unwrap_or(all)))).collect();
        if known.is_empty() {
            return None;
        }
        let most = MOST_PER_CONTAINER * i64::try_from(pod.images.len()).unwrap_or(1);
        let score = |node: &NodeInfo| {
            let sum: i64 = known.iter().filter_map(|(name, nodes)| node.images.get(name).map(|size| (*size as f64 * (*nodes as f64 / all as f64)) as i64)).sum();
            100 * (sum.clamp(LEAST, most) - LEAST) / (most - LEAST)
        };
        Some((Scale::Done, slots.iter().map(|slot| cluster.at(*slot).map_or(0, score)).collect()))
    }
}
