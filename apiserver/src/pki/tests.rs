use std::os::unix::fs::PermissionsExt as _;

use rcgen::SanType;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::*;

fn names(dns: &[&str]) -> ServerNames {
    ServerNames {
        dns: dns.iter().map(|&name| name.to_owned()).collect(),
        ips: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
    }
}

#[test]
fn a_restart_keeps_every_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::open(dir.path(), &names(&["b", "a", "a"])).unwrap();
    let second = Pki::open(dir.path(), &names(&["a", "b"])).unwrap();
    assert_eq!(first.ca_hash(), second.ca_hash());
    assert_eq!(first.server.certificate_pem, second.server.certificate_pem);
    assert_eq!(first.admin.certificate_pem, second.admin.certificate_pem);
}

#[test]
fn other_names_get_a_new_server_certificate_from_the_same_ca() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::open(dir.path(), &names(&["a"])).unwrap();
    let second = Pki::open(dir.path(), &names(&["a", "c"])).unwrap();
    assert_eq!(first.ca_hash(), second.ca_hash());
    assert_ne!(first.server.certificate_pem, second.server.certificate_pem);
    assert_eq!(first.admin.certificate_pem, second.admin.certificate_pem);
}

#[test]
fn keys_are_for_their_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), &names(&[])).unwrap();
    let kubeconfig = pki.write_kubeconfig(dir.path(), "https://h:1").unwrap();
    let keys = ["ca.key", "server.key", "admin.key"].map(|key| pki.dir().join(key));
    for path in keys.iter().chain([&kubeconfig]) {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
}

#[test]
fn a_crash_between_the_ca_key_and_its_certificate_goes_on_with_the_key() {
    let dir = tempfile::tempdir().unwrap();
    Pki::open(dir.path(), &names(&[])).unwrap();
    let key = std::fs::read(dir.path().join("tls/ca.key")).unwrap();
    std::fs::remove_file(dir.path().join("tls/ca.crt")).unwrap();
    Pki::open(dir.path(), &names(&[])).unwrap();
    assert_eq!(std::fs::read(dir.path().join("tls/ca.key")).unwrap(), key);
}

#[test]
fn a_broken_ca_is_refused_with_the_file_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    Pki::open(dir.path(), &names(&[])).unwrap();
    let key_path = dir.path().join("tls/ca.key");
    let refusal = || {
        Pki::open(dir.path(), &names(&[]))
            .err()
            .unwrap()
            .to_string()
    };

    std::fs::write(&key_path, "nonsense").unwrap();
    assert!(
        refusal().contains("ca.key holds no usable key"),
        "{}",
        refusal()
    );

    std::fs::write(&key_path, new_key("CA").unwrap().serialize_pem()).unwrap();
    assert!(refusal().contains("ca.key is not the key"), "{}", refusal());

    std::fs::remove_file(&key_path).unwrap();
    assert!(refusal().contains("ca.key is missing"), "{}", refusal());
}

#[test]
fn a_node_gets_its_own_name_and_nothing_else_whatever_it_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), &names(&[])).unwrap();
    let key = new_key("node").unwrap();
    let mut params = CertificateParams::new(vec!["kubernetes".to_owned()]).unwrap();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:masters");
    params
        .subject_alt_names
        .push(SanType::IpAddress("10.96.0.1".parse().unwrap()));
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();

    let pem = pki.sign_node("node1", &csr).unwrap();
    let der = leaf::pem_to_der(&pem).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(
        certificate.subject().to_string(),
        "CN=system:node:node1, O=system:nodes"
    );
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    assert!(!certificate.is_ca());
    assert!(leaf::belongs(&der, &key));
    assert!(pki.sign_node("node1", "nonsense").is_err());
}

#[test]
fn a_ca_of_another_kind_signs_no_clients_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let tls = dir.path().join("tls");
    std::fs::create_dir(&tls).unwrap();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    std::fs::write(tls.join("ca.crt"), self_signed(&key, today).unwrap()).unwrap();
    std::fs::write(tls.join("ca.key"), key.serialize_pem()).unwrap();
    let pki = Pki::open(dir.path(), &names(&[])).unwrap();
    let csr = CertificateParams::default().serialize_request(&new_key("client").unwrap());
    let csr = csr.unwrap().pem().unwrap();
    let wanted = ClientCertificate {
        request: &CertificateRequest::from_pem(csr.as_bytes()).unwrap(),
        key_encipherment: false,
        lifetime: jiff::SignedDuration::from_hours(1),
    };
    let refused = pki.sign_client(wanted).unwrap_err().to_string();
    assert!(refused.contains("signature algorithm"), "{refused}");
}
