//! Node ports of Services, the port of their health check among them: drawn under a lock from what the view does not show as
//! taken.
//!
//! Source: Kubernetes `pkg/registry/core/service/storage/alloc.go`.

use std::{collections::BTreeSet, sync::Arc};

use meta::{ApiError, FieldError, FieldPath, Object};
use parking_lot::Mutex;
use rand::Rng;
use serde_json::{Value, json};

use crate::{core::Core, effects::service::invalid};

/// A port with its protocol.
pub type ProtocolPort = (String, u16);

/// The node ports that are being given away.
#[derive(Debug, Clone, Default)]
pub struct NodePorts {
    /// Ports of creates and updates that are not visible in the view yet.
    pending: Arc<Mutex<BTreeSet<ProtocolPort>>>,
}

/// What is taken already, and from where to draw.
struct Draw<'a> {
    object: &'a Object,
    range: (u16, u16),
    used: BTreeSet<ProtocolPort>,
    /// What the Service had before.
    held: Vec<ProtocolPort>,
    /// What it has got so far, with the number of the port each belongs to.
    own: Vec<(String, u16, Option<u64>)>,
    reserved: Vec<ProtocolPort>,
}

impl Draw<'_> {
    /// Takes a port that was asked for.
    fn take(&mut self, protocol: &str, wanted: u16, path: &FieldPath) -> Result<u16, ApiError> {
        let place = (protocol.to_owned(), wanted);
        let (low, high) = self.range;
        let held = self.held.contains(&place);
        if !held && !(low..=high).contains(&wanted) {
            let why = format!("provided port is not in the valid range. The range of valid ports is {low}-{high}");
            return Err(invalid(self.object, FieldError::invalid(path, wanted, why)));
        }
        if !held && self.used.contains(&place) {
            return Err(invalid(self.object, FieldError::invalid(path, wanted, "provided port is already allocated")));
        }
        Ok(wanted)
    }

    fn is_free(&self, protocol: &str, candidate: u16) -> bool {
        !self.used.contains(&(protocol.to_owned(), candidate)) && !self.own.iter().any(|(known, port, _)| known == protocol && *port == candidate)
    }

    /// Draws one.
    fn draw(&self, protocol: &str, number: Option<u64>) -> Result<u16, ApiError> {
        // Ports of one number and two protocols share a node port, as upstream gives them.
        let shared = self.own.iter().find(|(known, _, other)| known != protocol && number.is_some() && *other == number).map(|(_, port, _)| *port);
        let (low, high) = self.range;
        let start = rand::rng().random_range(low..=high);
        let found = shared.filter(|port| self.is_free(protocol, *port)).or_else(|| (start..=high).chain(low..start).find(|port| self.is_free(protocol, *port)));
        found.ok_or_else(|| ApiError::internal(format!("failed to allocate a nodePort for Service {}: range is full", self.object.name())))
    }

    fn note(&mut self, protocol: &str, chosen: u16, number: Option<u64>) {
        let place = (protocol.to_owned(), chosen);
        if !self.held.contains(&place) {
            self.reserved.push(place);
        }
        self.own.push((protocol.to_owned(), chosen, number));
    }
}

impl NodePorts {
    /// Fills in the node ports that a Service needs and does not name; gives those newly taken, which are
    /// [forgotten](Self::forget) once the Service is written, or not.
    ///
    /// # Errors
    /// 422 where one that it names is taken or out of range; 500 where there is none left.
    pub fn settle(&self, core: &Core, object: &mut Object, old: Option<&Object>) -> Result<Vec<ProtocolPort>, ApiError> {
        let kind = object.text(&["spec", "type"]).unwrap_or("ClusterIP").to_owned();
        let balanced = kind == "LoadBalancer";
        let needs_ports = kind == "NodePort" || balanced && object.get(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false));
        let needs_check = balanced && object.text(&["spec", "externalTrafficPolicy"]) == Some("Local");
        if !needs_ports && !needs_check {
            return Ok(Vec::new());
        }
        let key = format!("{}/{}", object.namespace(), object.name());
        let mut pending = self.pending.lock();
        let mut used = pending.clone();
        for stored in core.view.snapshot(&core.view_named("services")).range("", None) {
            if *stored.key != *key
                && let Ok(other) = stored.object()
            {
                used.extend(of(&other));
            }
        }
        let copy = object.clone();
        let held = old.map(of).unwrap_or_default();
        let mut draw = Draw { object: &copy, range: core.facts.node_ports, used, held, own: Vec::new(), reserved: Vec::new() };
        if needs_ports
            && let Some(ports) = object.0.get_mut("spec").and_then(|spec| spec.get_mut("ports")).and_then(Value::as_array_mut)
        {
            settle_each(ports, &mut draw)?;
        }
        if needs_check {
            let field = ["spec", "healthCheckNodePort"];
            let before = || old.and_then(|old| port_at(old.get(&field)));
            let chosen = match port_at(copy.get(&field)).or_else(before) {
                Some(given) => draw.take("TCP", given, &FieldPath::new("spec.healthCheckNodePort"))?,
                None => draw.draw("TCP", None)?,
            };
            draw.note("TCP", chosen, None);
            object.set(&field, json!(chosen));
        }
        pending.extend(draw.reserved.iter().cloned());
        Ok(draw.reserved)
    }

    /// Says that these are seen in the view now, or not needed after all.
    pub fn forget(&self, ports: &[ProtocolPort]) {
        let mut pending = self.pending.lock();
        for port in ports {
            pending.remove(port);
        }
    }
}

fn settle_each(ports: &mut [Value], draw: &mut Draw<'_>) -> Result<(), ApiError> {
    for (index, port) in ports.iter_mut().enumerate() {
        let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned();
        let number = port.get("port").and_then(Value::as_u64);
        let chosen = match port_at(port.get("nodePort")) {
            Some(given) => draw.take(&protocol, given, &FieldPath::new("spec.ports").index(index).child("nodePort"))?,
            None => draw.draw(&protocol, number)?,
        };
        draw.note(&protocol, chosen, number);
        if let Some(port) = port.as_object_mut() {
            port.insert("nodePort".to_owned(), json!(chosen));
        }
    }
    Ok(())
}

fn port_at(value: Option<&Value>) -> Option<u16> {
    value.and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
}

/// The node ports a Service has.
fn of(object: &Object) -> Vec<ProtocolPort> {
    let ports = object.get(&["spec", "ports"]).and_then(Value::as_array).into_iter().flatten();
    let mut all: Vec<ProtocolPort> = ports
        .filter_map(|port| Some((port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned(), port_at(port.get("nodePort"))?)))
        .collect();
    all.extend(port_at(object.get(&["spec", "healthCheckNodePort"])).map(|port| ("TCP".to_owned(), port)));
    all
}
