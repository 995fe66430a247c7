//! The API through kube-rs: both modes of its watcher, all kinds of patches, metadata, discovery.

use std::{collections::BTreeMap, fmt::Debug, future::Future, path::Path, pin::Pin};

use futures_util::{Stream, StreamExt};
use integration::{DEADLINE, Lab, server::Server};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Namespace, Pod, Service},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Config, Discovery, ResourceExt,
    api::{AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{DynamicObject, GroupVersionKind, PartialObjectMeta, PartialObjectMetaExt},
    discovery::Scope,
    runtime::{watcher, watcher::Event},
};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};

/// Runs a test against a server of its own, as its administrator.
fn with_client<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Client) -> F) {
    let server = Server::start(name);
    with_kubeconfig(&server.dir.join("server/admin.kubeconfig"), test);
}

fn with_kubeconfig<F: Future<Output = ()>>(file: &Path, test: impl FnOnce(Client) -> F) {
    let kubeconfig = Kubeconfig::read_from(file).expect("the administrator's kubeconfig");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .expect("a kubeconfig that kube-rs understands");
        config.proxy_url = None;
        test(Client::try_from(config).expect("a client")).await;
    });
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([("app".to_owned(), "a".to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("key".to_owned(), value.to_owned())])),
        ..ConfigMap::default()
    }
}

/// The code of the Status that a call had to fail with.
#[track_caller]
fn code<T: Debug>(result: kube::Result<T>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("wanted an API error, got {other:?}"),
    }
}

#[test]
fn objects_are_made_changed_and_deleted() {
    with_client("kube-objects", |client| async move {
        let maps: Api<ConfigMap> = Api::default_namespaced(client);
        assert_eq!(maps.get_opt("a").await.expect("a 404 that it knows"), None);
        let made = maps
            .create(&PostParams::default(), &config_map("a", "1"))
            .await
            .expect("create");
        assert!(made.uid().is_some() && made.resource_version().is_some());
        assert_eq!(
            code(maps.create(&PostParams::default(), &made).await),
            400,
            "a resourceVersion on create"
        );
        let again = maps
            .create(&PostParams::default(), &config_map("a", "1"))
            .await;
        assert_eq!(code(again), 409);

        let mut changed = made.clone();
        changed.data = Some(BTreeMap::from([("key".to_owned(), "2".to_owned())]));
        let replaced = maps
            .replace("a", &PostParams::default(), &changed)
            .await
            .expect("replace");
        assert_ne!(replaced.resource_version(), made.resource_version());
        let stale = maps.replace("a", &PostParams::default(), &changed).await;
        assert_eq!(code(stale), 409);

        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let _ = maps
            .create(&dry, &config_map("dry", "1"))
            .await
            .expect("dry");
        assert_eq!(maps.get_opt("dry").await.expect("get"), None);

        for name in ["b", "c"] {
            let _ = maps
                .create(&PostParams::default(), &config_map(name, "1"))
                .await
                .expect("create");
        }
        let page = maps
            .list(&ListParams::default().labels("app=a").limit(2))
            .await
            .expect("a page");
        assert_eq!(page.items.len(), 2);
        let token = page.metadata.continue_.expect("more");
        let rest = maps
            .list(&ListParams::default().labels("app=a").continue_token(&token))
            .await
            .expect("the rest");
        assert_eq!(rest.items.len(), 1);

        let gone = maps
            .delete("a", &DeleteParams::default())
            .await
            .expect("delete");
        assert!(gone.right().is_some_and(|status| status.is_success()));
        let gone = maps
            .delete_collection(
                &DeleteParams::default(),
                &ListParams::default().labels("app=a"),
            )
            .await
            .expect("deletecollection");
        assert_eq!(gone.left().map(|list| list.items.len()), Some(2));
    });
}

#[test]
fn every_kind_of_patch_is_taken() {
    with_client("kube-patches", |client| async move {
        let services: Api<Service> = Api::default_namespaced(client.clone());
        let apply = PatchParams::apply("first");
        let applied = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
            "spec": {"selector": {"app": "a"}, "ports": [{"port": 80}]}});
        let made = services
            .patch("s", &apply, &Patch::Apply(&applied))
            .await
            .expect("apply creates");
        let same = services
            .patch("s", &apply, &Patch::Apply(&applied))
            .await
            .expect("apply again");
        assert_eq!(made.resource_version(), same.resource_version(), "A12");

        let other = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
            "spec": {"selector": {"app": "b"}}});
        let second = PatchParams::apply("second");
        assert_eq!(
            code(services.patch("s", &second, &Patch::Apply(&other)).await),
            409,
            "A6"
        );
        let forced = services
            .patch("s", &second.force(), &Patch::Apply(&other))
            .await
            .expect("force");
        let selector = forced
            .spec
            .and_then(|spec| spec.selector)
            .expect("a selector");
        assert_eq!(selector["app"], "b");

        let plain = PatchParams::default();
        let merge = json!({"metadata": {"labels": {"by": "merge"}}});
        let _ = services
            .patch("s", &plain, &Patch::Merge(&merge))
            .await
            .expect("merge");
        let strategic =
            json!({"spec": {"ports": [{"port": 80, "name": "web"}, {"port": 81, "name": "more"}]}});
        let merged = services
            .patch("s", &plain, &Patch::Strategic(&strategic))
            .await
            .expect("strategic merge");
        let ports = merged.spec.and_then(|spec| spec.ports).expect("ports");
        assert_eq!(ports.len(), 2);
        assert_eq!(merged.metadata.labels.expect("labels")["by"], "merge");

        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
        let of_cluster_ip = services
            .patch_status("s", &plain, &Patch::Merge(&status))
            .await;
        assert_eq!(code(of_cluster_ip), 422, "only load balancers have ingress");

        let deployments: Api<Deployment> = Api::default_namespaced(client);
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": "d"}}, "template": {
                "metadata": {"labels": {"app": "d"}},
                "spec": {"containers": [{"name": "c", "image": "minik.dev/echo:1"}]}}}});
        let _ = deployments
            .patch("d", &apply, &Patch::Apply(&deployment))
            .await
            .expect("apply");
        let scaled = deployments
            .patch_scale("d", &plain, &Patch::Merge(json!({"spec": {"replicas": 1}})))
            .await
            .expect("scale");
        assert_eq!(scaled.spec.and_then(|spec| spec.replicas), Some(1));
        let read = deployments.get_scale("d").await.expect("read the scale");
        assert_eq!(
            read.status.and_then(|status| status.selector).as_deref(),
            Some("app=d")
        );
    });
}

#[test]
fn metadata_alone_is_read_and_changed() {
    with_client("kube-metadata", |client| async move {
        let maps: Api<ConfigMap> = Api::default_namespaced(client);
        let _ = maps
            .create(&PostParams::default(), &config_map("a", "1"))
            .await
            .expect("create");
        let list = maps
            .list_metadata(&ListParams::default().labels("app=a"))
            .await
            .expect("a list of metadata");
        assert_eq!(list.items.len(), 1);
        assert_eq!(list.items[0].labels()["app"], "a");
        let note = ObjectMeta {
            annotations: Some(BTreeMap::from([("note".to_owned(), "x".to_owned())])),
            ..ObjectMeta::default()
        };
        let patch: PartialObjectMeta<ConfigMap> = note.into_request_partial();
        let changed = maps
            .patch_metadata("a", &PatchParams::apply("noter"), &Patch::Apply(&patch))
            .await
            .expect("apply metadata");
        assert_eq!(changed.annotations()["note"], "x");
        let whole = maps.get("a").await.expect("get");
        assert_eq!(whole.data.expect("data")["key"], "1", "the rest stays");
    });
}

type Events<K> = Pin<Box<dyn Stream<Item = watcher::Result<Event<K>>> + Send>>;

/// The next event, in words; the names are those of the test's own objects.
async fn told<K: ResourceExt + Debug>(events: &mut Events<K>) -> String {
    let next = tokio::time::timeout(DEADLINE, events.next()).await;
    match next
        .expect("an event in time")
        .expect("a stream without end")
    {
        Ok(Event::Init) => "init".to_owned(),
        Ok(Event::InitApply(object)) => format!("init {}", object.name_any()),
        Ok(Event::InitDone) => "done".to_owned(),
        Ok(Event::Apply(object)) => format!("apply {}", object.name_any()),
        Ok(Event::Delete(object)) => format!("delete {}", object.name_any()),
        Err(error) => panic!("the watcher fails: {error}"),
    }
}

/// What is there comes first, then every change once.
async fn follows<K: ResourceExt + Debug>(mut events: Events<K>, maps: &Api<ConfigMap>) {
    let mut tells = async |wanted: &str| assert_eq!(told(&mut events).await, wanted);
    tells("init").await;
    tells("init a").await;
    tells("done").await;
    let _ = maps
        .create(&PostParams::default(), &config_map("b", "1"))
        .await
        .expect("create");
    tells("apply b").await;
    let patch = json!({"data": {"key": "2"}});
    let _ = maps
        .patch("b", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect("patch");
    tells("apply b").await;
    // It leaves the selection, not the server.
    let patch = json!({"metadata": {"labels": {"app": "z"}}});
    let _ = maps
        .patch("b", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect("patch");
    tells("delete b").await;
    let _ = maps
        .delete("b", &DeleteParams::default())
        .await
        .expect("delete");
    let _ = maps
        .create(&PostParams::default(), &config_map("c", "1"))
        .await
        .expect("create");
    tells("apply c").await;
    let _ = maps
        .delete("c", &DeleteParams::default())
        .await
        .expect("delete");
    tells("delete c").await;
}

#[test]
fn the_watcher_follows_in_both_modes() {
    with_client("kube-watcher", |client| async move {
        let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
        let metadata: Api<PartialObjectMeta<ConfigMap>> = Api::default_namespaced(client);
        let _ = maps
            .create(&PostParams::default(), &config_map("a", "1"))
            .await
            .expect("create");
        let listing = watcher::Config::default().labels("app=a");
        let streaming = listing.clone().streaming_lists();
        for config in [listing, streaming] {
            follows(watcher(maps.clone(), config.clone()).boxed(), &maps).await;
            follows(watcher(metadata.clone(), config).boxed(), &maps).await;
        }
    });
}

#[test]
fn discovery_finds_every_kind_and_leads_to_it() {
    with_client("kube-discovery", |client| async move {
        let legacy = Discovery::new(client.clone()).run().await.expect("legacy");
        let aggregated = Discovery::new(client.clone())
            .run_aggregated()
            .await
            .expect("aggregated");
        for (group, version, kind) in [
            ("", "v1", "Service"),
            ("", "v1", "Node"),
            ("discovery.k8s.io", "v1", "EndpointSlice"),
            ("apps", "v1", "Deployment"),
            ("coordination.k8s.io", "v1", "Lease"),
            ("rbac.authorization.k8s.io", "v1", "ClusterRole"),
        ] {
            let wanted = GroupVersionKind::gvk(group, version, kind);
            let (resource, can) = aggregated.resolve_gvk(&wanted).expect(kind);
            let (by_legacy, _) = legacy.resolve_gvk(&wanted).expect(kind);
            assert_eq!(resource, by_legacy);
            let objects: Api<DynamicObject> = match can.scope {
                Scope::Cluster => Api::all_with(client.clone(), &resource),
                Scope::Namespaced => Api::default_namespaced_with(client.clone(), &resource),
            };
            let list = objects.list(&ListParams::default()).await.expect(kind);
            assert!(list.metadata.resource_version.is_some(), "{kind}");
        }
        let version = client.apiserver_version().await.expect("a version");
        assert!(version.minor.chars().all(|digit| digit.is_ascii_digit()));
    });
}

#[test]
fn finalizers_and_namespaces_hold_until_they_are_let_go() {
    with_client("kube-finalizers", |client| async move {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let mut team = Namespace::default();
        team.metadata.name = Some("team".to_owned());
        let _ = namespaces
            .create(&PostParams::default(), &team)
            .await
            .expect("create");
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "team");
        let mut held = config_map("held", "1");
        held.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
        let _ = maps
            .create(&PostParams::default(), &held)
            .await
            .expect("create");
        let going = maps.delete("held", &DeleteParams::default()).await;
        let going = going
            .expect("delete")
            .left()
            .expect("the object, still there");
        assert!(going.metadata.deletion_timestamp.is_some());

        let _ = namespaces
            .delete("team", &DeleteParams::default())
            .await
            .expect("delete");
        let late = maps
            .create(&PostParams::default(), &config_map("late", "1"))
            .await;
        assert_eq!(code(late), 403, "F3");
        let pods: Api<Pod> = Api::namespaced(client, "team");
        assert!(
            pods.list(&ListParams::default())
                .await
                .expect("list")
                .items
                .is_empty()
        );

        let mut events: Events<Namespace> = watcher(
            namespaces.clone(),
            watcher::Config::default().fields("metadata.name=team"),
        )
        .boxed();
        let release = json!({"metadata": {"finalizers": null}});
        let _ = maps
            .patch("held", &PatchParams::default(), &Patch::Merge(&release))
            .await
            .expect("let it go");
        // The list may or may not still show the namespace; it goes either way.
        let gone = async {
            loop {
                match told(&mut events).await.as_str() {
                    "delete team" => return,
                    "done" if namespaces.get_opt("team").await.expect("get").is_none() => return,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(DEADLINE, gone)
            .await
            .expect("the namespace goes when nothing is left in it");
    });
}

/// The next line, in time.
async fn line(from: impl AsyncRead + Unpin) -> String {
    let mut line = String::new();
    let mut from = BufReader::new(from);
    let _ = tokio::time::timeout(DEADLINE, from.read_line(&mut line))
        .await
        .expect("a line in time")
        .expect("a line");
    line
}

#[test]
fn s2_s8_s9_a_pod_is_talked_to_by_commands_logs_and_ports() {
    let lab = Lab::up(1, &[]);
    lab.echo_pods(&[("a", "a", "node1")]);
    with_kubeconfig(&lab.dir().join("kubeconfig"), |client| async move {
        let pods: Api<Pod> = Api::default_namespaced(client);
        let log = pods.logs("a", &LogParams::default()).await.expect("logs");
        assert!(log.contains("listening"), "{log}");

        let program = ["/minik", "fetch", "--lines", "tcp://localhost:9377"];
        let streams = AttachParams::default().stdin(true);
        let mut process = pods.exec("a", program, &streams).await.expect("exec");
        let mut input = process.stdin().expect("standard input");
        input.write_all(b"by exec\n").await.expect("write");
        let output = process.stdout().expect("standard output");
        let said = line(output).await;
        assert!(said.contains("by exec"), "{said}");
        process.abort();

        let fails = pods
            .exec("a", ["/minik", "nonsense"], &AttachParams::default())
            .await;
        let mut fails = fails.expect("exec");
        let status = fails.take_status().expect("a status");
        let status = tokio::time::timeout(DEADLINE, status)
            .await
            .expect("in time");
        let status = status.expect("the channel of errors tells how it ended");
        assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));

        let mut forward = pods
            .portforward("a", &[9377, 9])
            .await
            .expect("portforward");
        let mut stream = forward.take_stream(9377).expect("a stream");
        stream.write_all(b"by port\n").await.expect("write");
        let said = line(&mut stream).await;
        assert!(said.contains("by port"), "{said}");
        let nobody = forward.take_error(9).expect("its errors");
        let why = tokio::time::timeout(DEADLINE, nobody)
            .await
            .expect("in time");
        let why = why.expect("why nobody answers");
        assert!(why.contains("refused"), "{why}");
    });
}
