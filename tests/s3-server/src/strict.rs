//! What real servers do and `s3s-fs` leaves out, around it.
//!
//! - `x-amz-checksum-sha256` is compared before anything is stored (`s3s-fs` stores first, and ignores it
//!   on parts); a multipart upload that has not announced checksums refuses them, one that has demands them
//!   again when it is completed.
//! - Parts are those whose `ETag` the client names.
//! - `ListMultipartUploads`, page by page; the list lives in memory.
//! - `If-Match` on reading, and `NoSuchBucket` where there is no bucket.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use futures::TryStreamExt as _;
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, dto, s3_error};
use s3s::checksum::ChecksumHasher;
use s3s_fs::FileSystem;

/// What becomes of checksums.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    Verified,
    /// As by servers from before they were invented; there is no list of uploads either.
    Refused,
}

/// The storage.
pub struct Strict {
    files: FileSystem,
    checksums: Checksums,
    uploads: Mutex<BTreeMap<(String, String), Upload>>,
}

/// A multipart upload under way; by key and id.
struct Upload {
    bucket: String,
    begun: SystemTime,
    has_checksums: bool,
    parts: BTreeMap<i32, Part>,
}

/// What the server said of a part.
#[derive(PartialEq, Eq)]
struct Part {
    e_tag: Option<dto::ETag>,
    sha256: Option<String>,
}

impl Strict {
    pub fn new(directory: &str, checksums: Checksums) -> Result<Strict, String> {
        let files =
            FileSystem::new(directory).map_err(|error| format!("{directory}: {error:?}"))?;
        Ok(Strict {
            files,
            checksums,
            uploads: Mutex::default(),
        })
    }

    fn uploads(&self) -> MutexGuard<'_, BTreeMap<(String, String), Upload>> {
        self.uploads.lock().expect("no holder of this lock panics")
    }

    fn refuse_if_old<T>(&self, feature: Option<&T>) -> S3Result<()> {
        match (self.checksums, feature) {
            (Checksums::Refused, Some(_)) => Err(s3_error!(
                NotImplemented,
                "A header you provided implies functionality that is not implemented."
            )),
            _ => Ok(()),
        }
    }

    async fn must_have(&self, bucket: &str) -> S3Result<()> {
        let input = dto::HeadBucketInput {
            bucket: bucket.to_owned(),
            ..dto::HeadBucketInput::default()
        };
        self.files.head_bucket(request(input)).await.map(drop)
    }
}

/// A request that this server makes of itself.
fn request<T>(input: T) -> S3Request<T> {
    S3Request {
        input,
        method: Default::default(),
        uri: Default::default(),
        headers: Default::default(),
        extensions: Default::default(),
        credentials: None,
        region: None,
        service: None,
        trailing_headers: None,
    }
}

/// Receives a body, which must have this checksum if there is one.
async fn receive(
    body: Option<dto::StreamingBlob>,
    length: Option<i64>,
    sha256: Option<&String>,
) -> S3Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut body) = body {
        while let Some(piece) = body
            .try_next()
            .await
            .map_err(|_| s3_error!(IncompleteBody))?
        {
            bytes.extend_from_slice(&piece);
        }
    }
    if length.is_some_and(|length| length != bytes.len() as i64) {
        return Err(s3_error!(IncompleteBody));
    }
    if let Some(expected) = sha256 {
        let mut hasher = ChecksumHasher {
            sha256: Some(Default::default()),
            ..ChecksumHasher::default()
        };
        hasher.update(&bytes);
        if hasher.finalize().checksum_sha256.as_ref() != Some(expected) {
            return Err(s3_error!(BadDigest, "The checksum did not match."));
        }
    }
    Ok(bytes)
}

fn blob(bytes: Vec<u8>) -> Option<dto::StreamingBlob> {
    Some(dto::StreamingBlob::from(s3s::Body::from(bytes)))
}

fn no_such_upload() -> S3Error {
    s3_error!(NoSuchUpload)
}

#[async_trait::async_trait]
impl S3 for Strict {
    async fn head_bucket(
        &self,
        request: S3Request<dto::HeadBucketInput>,
    ) -> S3Result<S3Response<dto::HeadBucketOutput>> {
        self.files.head_bucket(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<dto::HeadObjectInput>,
    ) -> S3Result<S3Response<dto::HeadObjectOutput>> {
        self.files.head_object(request).await
    }

    async fn get_object(
        &self,
        request: S3Request<dto::GetObjectInput>,
    ) -> S3Result<S3Response<dto::GetObjectOutput>> {
        self.must_have(&request.input.bucket).await?;
        let condition = request.input.if_match.clone();
        let response = self.files.get_object(request).await?;
        match (condition, &response.output.e_tag) {
            (Some(dto::ETagCondition::ETag(expected)), Some(tag)) if !expected.strong_cmp(tag) => {
                Err(s3_error!(PreconditionFailed))
            }
            _ => Ok(response),
        }
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<dto::ListObjectsV2Input>,
    ) -> S3Result<S3Response<dto::ListObjectsV2Output>> {
        self.files.list_objects_v2(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<dto::DeleteObjectInput>,
    ) -> S3Result<S3Response<dto::DeleteObjectOutput>> {
        self.files.delete_object(request).await
    }

    async fn put_object(
        &self,
        mut request: S3Request<dto::PutObjectInput>,
    ) -> S3Result<S3Response<dto::PutObjectOutput>> {
        let input = &mut request.input;
        self.refuse_if_old(input.checksum_sha256.as_ref())?;
        self.must_have(&input.bucket).await?;
        let body = input.body.take();
        let bytes = receive(body, input.content_length, input.checksum_sha256.as_ref()).await?;
        input.body = blob(bytes);
        self.files.put_object(request).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<dto::CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CreateMultipartUploadOutput>> {
        let algorithm = request.input.checksum_algorithm.clone();
        self.refuse_if_old(algorithm.as_ref())?;
        self.must_have(&request.input.bucket).await?;
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let response = self.files.create_multipart_upload(request).await?;
        let id = response.output.upload_id.clone().unwrap_or_default();
        let upload = Upload {
            bucket,
            begun: SystemTime::now(),
            has_checksums: algorithm.is_some_and(|name| name.as_str() == "SHA256"),
            parts: BTreeMap::new(),
        };
        self.uploads().insert((key, id), upload);
        Ok(response)
    }

    async fn upload_part(
        &self,
        mut request: S3Request<dto::UploadPartInput>,
    ) -> S3Result<S3Response<dto::UploadPartOutput>> {
        let input = &mut request.input;
        let upload = (input.key.clone(), input.upload_id.clone());
        let (number, sha256) = (input.part_number, input.checksum_sha256.clone());
        let has_checksums = match self.uploads().get(&upload) {
            Some(upload) => upload.has_checksums,
            None => return Err(no_such_upload()),
        };
        if has_checksums != sha256.is_some() {
            return Err(s3_error!(
                InvalidRequest,
                "Checksum Type mismatch occurred."
            ));
        }
        let bytes = receive(input.body.take(), input.content_length, sha256.as_ref()).await?;
        input.body = blob(bytes);
        let mut response = self.files.upload_part(request).await?;
        response.output.checksum_sha256 = sha256.clone();
        let part = Part {
            e_tag: response.output.e_tag.clone(),
            sha256,
        };
        if let Some(upload) = self.uploads().get_mut(&upload) {
            upload.parts.insert(number, part);
        }
        Ok(response)
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<dto::CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CompleteMultipartUploadOutput>> {
        let input = &request.input;
        let upload = (input.key.clone(), input.upload_id.clone());
        let named = input
            .multipart_upload
            .iter()
            .flat_map(|upload| upload.parts.iter().flatten());
        let named: BTreeMap<i32, Part> = named
            .map(|part| {
                let (e_tag, sha256) = (part.e_tag.clone(), part.checksum_sha256.clone());
                (part.part_number.unwrap_or(0), Part { e_tag, sha256 })
            })
            .collect();
        match self.uploads().get(&upload) {
            Some(upload) if upload.parts == named => {}
            Some(_) => return Err(s3_error!(InvalidPart)),
            None => return Err(no_such_upload()),
        }
        let response = self.files.complete_multipart_upload(request).await?;
        self.uploads().remove(&upload);
        Ok(response)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<dto::AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::AbortMultipartUploadOutput>> {
        let upload = (request.input.key.clone(), request.input.upload_id.clone());
        if self.uploads().remove(&upload).is_none() {
            return Err(no_such_upload());
        }
        self.files.abort_multipart_upload(request).await
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<dto::ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<dto::ListMultipartUploadsOutput>> {
        let input = request.input;
        self.refuse_if_old(Some(&input))?;
        self.must_have(&input.bucket).await?;
        let after = (
            input.key_marker.unwrap_or_default(),
            input.upload_id_marker.unwrap_or_default(),
        );
        let most = usize::try_from(input.max_uploads.unwrap_or(1000)).unwrap_or(0);
        let uploads = self.uploads();
        let mut found: Vec<dto::MultipartUpload> = uploads
            .iter()
            .filter(|(name, upload)| **name > after && upload.bucket == input.bucket)
            .take(most + 1)
            .map(|((key, id), upload)| dto::MultipartUpload {
                key: Some(key.clone()),
                upload_id: Some(id.clone()),
                initiated: Some(upload.begun.into()),
                ..dto::MultipartUpload::default()
            })
            .collect();
        let is_truncated = found.len() > most;
        found.truncate(most);
        let last = found.last().filter(|_| is_truncated);
        Ok(S3Response::new(dto::ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            is_truncated: Some(is_truncated),
            next_key_marker: last.and_then(|upload| upload.key.clone()),
            next_upload_id_marker: last.and_then(|upload| upload.upload_id.clone()),
            uploads: Some(found),
            ..dto::ListMultipartUploadsOutput::default()
        }))
    }
}
