//! Certificates of a network of its own.

use crate::Error;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Who signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub file: PathBuf,
}

/// A certificate and the key to it, as files.
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// The key, its owner's alone.
    pub key: PathBuf,
    /// The certificate's octets.
    pub der: Vec<u8>,
}

impl Authority {
    /// A new one, with its certificate in a directory.
    ///
    /// # Errors
    /// [`Error::Certificate`], [`Error::System`].
    pub fn new(directory: &Path, name: &str) -> Result<Self, Error> {
        let mut params = named(name, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().map_err(Error::certificate)?;
        let certificate = params.self_signed(&key).map_err(Error::certificate)?;
        let file = directory.join(format!("{name}.pem"));
        fs::write(&file, certificate.pem()).map_err(Error::system("write a certificate"))?;
        Ok(Self { issuer: Issuer::new(params, key), file })
    }

    /// Signs a certificate for the DNS name or IP address `name`, in files of this name.
    ///
    /// # Errors
    /// As [`Authority::new`].
    pub fn sign(&self, file: &str, name: &str) -> Result<Identity, Error> {
        self.signed(file, named(name, &[name])?)
    }

    /// One whose time was over long ago.
    ///
    /// # Errors
    /// As [`Authority::new`].
    pub fn sign_expired(&self, file: &str, name: &str) -> Result<Identity, Error> {
        let mut params = named(name, &[name])?;
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 2, 1);
        self.signed(file, params)
    }

    fn signed(&self, file: &str, mut params: CertificateParams) -> Result<Identity, Error> {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let pair = KeyPair::generate().map_err(Error::certificate)?;
        let signed = params.signed_by(&pair, &self.issuer).map_err(Error::certificate)?;
        let [certificate, key] =
            ["pem", "key"].map(|extension| self.file.with_file_name(format!("{file}.{extension}")));
        let written = fs::write(&certificate, signed.pem())
            .and_then(|()| fs::write(&key, pair.serialize_pem()))
            .and_then(|()| fs::set_permissions(&key, Permissions::from_mode(0o600)));
        written.map_err(Error::system("write a certificate"))?;
        Ok(Identity { certificate, key, der: signed.der().to_vec() })
    }
}

fn named(name: &str, names: &[&str]) -> Result<CertificateParams, Error> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).map_err(Error::certificate)?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}
