//! What one function reaches: carries out the calls of its guests.

use crate::binding::{Bindings, OpenError};
use crate::blob::Blobs;
use crate::figures::{Figure, Figures};
use crate::net::{Net, Protocol};
use crate::refusal::{self, Refusal};
use crate::spec::{SecretBytes, Spec};
use crate::store::Store;
use crate::tenant::Tenant;
use hv_abi::io::services::{Answer, Operation, Status};
use hv_core::device::services::{Call, Provider};
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;

/// The services of one function.
pub struct FunctionServices {
    runtime: Handle,
    reach: Arc<Reach>,
}

/// What there is.
struct Reach {
    stores: HashMap<String, Arc<Store>>,
    blobs: HashMap<String, Arc<Blobs>>,
    secrets: BTreeMap<String, SecretBytes>,
    net: Net,
    tenant: Option<Arc<Tenant>>,
    figures: Figures,
}

impl FunctionServices {
    pub(crate) fn new(runtime: Handle, bindings: &Bindings, spec: &Spec) -> Result<Arc<Self>, OpenError> {
        let mut stores = HashMap::new();
        for store in &spec.stores {
            stores.insert(store.name.clone(), bindings.store(store)?);
        }
        let mut blobs = HashMap::new();
        for blob in &spec.blobs {
            blobs.insert(blob.name.clone(), bindings.blobs(blob)?);
        }
        let tenant = spec.tenant.as_ref().map(|tenant| bindings.tenant(tenant)).transpose()?;
        let net = Net::new(&spec.net, &bindings.names, tenant.clone());
        let figures = Figures::default();
        let reach = Reach { stores, blobs, secrets: spec.secrets.clone(), net, tenant, figures };
        Ok(Arc::new(FunctionServices { runtime, reach: Arc::new(reach) }))
    }

    /// What its guests have done.
    pub fn figures(&self) -> &Figures {
        &self.reach.figures
    }
}

impl Provider for FunctionServices {
    fn begin(&self, call: Call) {
        let reach = self.reach.clone();
        self.runtime.spawn(async move { reach.carry_out(call).await });
    }

    fn later(&self, work: Box<dyn FnOnce() + Send>) {
        self.runtime.spawn(async move { work() });
    }
}

impl Reach {
    async fn carry_out(&self, call: Call) {
        let result = tokio::select! {
            biased;
            () = poll_fn(|context| call.poll_closed(context)) => Err(Refusal::Closed),
            result = self.work(&call) => result,
        };
        let result_name = result.as_ref().map_or_else(Refusal::name, |()| refusal::name(Status::Ok));
        self.count(&call, result_name);
        match result {
            Ok(()) => call.end(Status::Ok, ""),
            Err(refusal) => refusal.tell(call),
        }
    }

    async fn work(&self, call: &Call) -> Result<(), Refusal> {
        let request = call.request();
        let none = |what: &str| {
            let text = format!(
                "this function has no {what} {:?}: name it in its table, or in that of its tenant",
                request.name
            );
            Refusal::new(Status::Denied, text)
        };
        match request.operation {
            Operation::StoreGet | Operation::StorePut | Operation::StoreDelete | Operation::StoreList => {
                let store = self.stores.get(&request.name).ok_or_else(|| none("store"))?;
                self.admit()?;
                store.carry_out(call).await
            }
            Operation::BlobGet | Operation::BlobPut | Operation::BlobDelete | Operation::BlobList => {
                let blobs = self.blobs.get(&request.name).ok_or_else(|| none("blob"))?;
                self.admit()?;
                blobs.carry_out(call).await
            }
            Operation::Secret => {
                let secret = self.secrets.get(&request.key);
                let secret = secret.ok_or_else(|| Refusal::new(Status::NotFound, ""))?.reveal();
                call.answer(Answer { version: 0, size: secret.len() as u64 });
                Ok(call.send(secret).await?)
            }
            Operation::TcpConnect => self.net.carry_out(Protocol::Tcp, call, &self.figures).await,
            Operation::UdpConnect => self.net.carry_out(Protocol::Udp, call, &self.figures).await,
        }
    }

    /// Whether the tenant may do one thing more.
    fn admit(&self) -> Result<(), Refusal> {
        self.tenant.as_ref().map_or(Ok(()), |tenant| tenant.admit(Instant::now()))
    }

    fn count(&self, call: &Call, result: &'static str) {
        let request = call.request();
        let (service, known) = match request.operation {
            Operation::StoreGet | Operation::StorePut | Operation::StoreDelete | Operation::StoreList => {
                ("store", self.stores.contains_key(&request.name))
            }
            Operation::BlobGet | Operation::BlobPut | Operation::BlobDelete | Operation::BlobList => {
                ("blob", self.blobs.contains_key(&request.name))
            }
            Operation::Secret => ("secret", false),
            Operation::TcpConnect => ("tcp", false),
            Operation::UdpConnect => ("udp", false),
        };
        // Names that guests make up are not counted one by one.
        let binding = if known { request.name.clone() } else { "-".into() };
        self.figures.count(Figure { service, binding, result });
    }
}
