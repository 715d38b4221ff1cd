package bucket

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
)

// S3Config says where a bucket is. Credentials come from the SDK's chain: environment, shared files, web identity,
// instance role.
type S3Config struct {
	URL       string // s3://bucket or s3://bucket/prefix; required
	Endpoint  string // of the service, http(s)://host[:port]; "": AWS's own
	Region    string // of the bucket, as AWS names regions; "": what the SDK's chain says, else us-east-1
	PathStyle bool   // https://host/bucket instead of https://bucket.host, as most servers that are not AWS's need
}

// S3 is a Bucket of Amazon S3 or a server like it. The server must know conditional writes (If-None-Match), as S3,
// MinIO and versitygw do.
type S3 struct {
	client    *s3.Client
	transport *http.Transport
	bucket    string
	prefix    string // "" or with a slash at its end
	partSize  int64
}

var _ Bucket = (*S3)(nil)

// ParseS3URL splits s3://bucket/prefix.
func ParseS3URL(text string) (bucket, prefix string, err error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Port() != "" {
		return "", "", fmt.Errorf("%.200q is not s3://bucket or s3://bucket/prefix", text)
	}
	prefix = strings.Trim(u.Path, "/")
	if prefix != "" {
		prefix += "/"
	}
	return u.Host, prefix, nil
}

// OpenS3 makes a Bucket. It asks nobody: whether the bucket is there and may be read is found out by the first use.
func OpenS3(ctx context.Context, c S3Config) (*S3, error) {
	bucket, prefix, err := ParseS3URL(c.URL)
	if err != nil {
		return nil, err
	}
	cfg, err := config.LoadDefaultConfig(ctx,
		config.WithRetryMaxAttempts(4),
		// Blobs are compared with their SHA-256 after they came; the checksum of a request is of use to the server.
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
	)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.URL, err)
	}
	base, ok := cfg.HTTPClient.(*awshttp.BuildableClient) // with the certificates of AWS_CA_BUNDLE
	if !ok {
		base = awshttp.NewBuildableClient()
	}
	transport := base.GetTransport()
	transport.DialContext = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	transport.TLSHandshakeTimeout = 5 * time.Second
	transport.ResponseHeaderTimeout = 30 * time.Second
	transport.IdleConnTimeout = time.Minute
	transport.MaxIdleConnsPerHost = 16
	cfg.HTTPClient = &http.Client{Transport: transport}
	cfg.Region = cmp.Or(c.Region, cfg.Region, "us-east-1")
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.UsePathStyle = c.PathStyle
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
		}
		o.DisableLogOutputChecksumValidationSkipped = true
	})
	return &S3{client: client, transport: transport, bucket: bucket, prefix: prefix, partSize: minPart}, nil
}

// Close frees idle connections.
func (b *S3) Close() error {
	b.transport.CloseIdleConnections()
	return nil
}

func (b *S3) key(key string) *string { return aws.String(b.prefix + key) }

// Get is Bucket's.
func (b *S3) Get(ctx context.Context, key string, offset, length int64, etag string) (io.ReadCloser, error) {
	if length == 0 { // no range says so
		if _, err := b.Head(ctx, key); err != nil {
			return nil, err
		}
		return io.NopCloser(strings.NewReader("")), nil
	}
	in := &s3.GetObjectInput{Bucket: &b.bucket, Key: b.key(key)}
	switch {
	case length > 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	case offset > 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", offset))
	}
	if etag != "" {
		in.IfMatch = &etag
	}
	out, err := b.client.GetObject(ctx, in)
	if err != nil {
		return nil, b.explain(ctx, "get", key, err)
	}
	left := length
	if length < 0 && out.ContentLength != nil {
		left = *out.ContentLength
	}
	return &exactly{r: out.Body, left: left, ctx: ctx}, nil
}

// exactly reads a body that must have left bytes; negative when nobody said how many.
type exactly struct {
	r    io.ReadCloser
	left int64
	ctx  context.Context
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.left >= 0 {
		if e.left == 0 {
			return 0, io.EOF
		}
		p = p[:min(int64(len(p)), e.left)]
	}
	n, err := e.r.Read(p)
	if e.left >= 0 {
		e.left -= int64(n)
		switch {
		case errors.Is(err, io.EOF) && e.left > 0:
			err = io.ErrUnexpectedEOF
		case e.left == 0 && err == nil:
			err = io.EOF
		}
	}
	return n, err
}

func (e *exactly) Close() error { return e.r.Close() }

// Put is Bucket's.
func (b *S3) Put(ctx context.Context, key string, body io.ReaderAt, size int64, progress func(int64)) error {
	if progress == nil {
		progress = func(int64) {}
	}
	if size > 2*b.partSize {
		return b.putParts(ctx, key, body, size, progress)
	}
	_, err := b.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &b.bucket, Key: b.key(key), IfNoneMatch: aws.String("*"),
		Body: io.NewSectionReader(body, 0, size), ContentLength: &size,
	})
	if err != nil {
		return b.explain(ctx, "put", key, err)
	}
	progress(size)
	return nil
}

// List is Bucket's.
func (b *S3) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		pages := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{Bucket: &b.bucket, Prefix: b.key(prefix)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(Object{}, b.explain(ctx, "list", prefix, err))
				return
			}
			for _, o := range page.Contents {
				key, ok := strings.CutPrefix(aws.ToString(o.Key), b.prefix)
				if !ok || strings.HasSuffix(key, "/") {
					continue // a folder that a console made
				}
				if !yield(Object{Key: key, Size: aws.ToInt64(o.Size), ETag: aws.ToString(o.ETag), Modified: aws.ToTime(o.LastModified)}, nil) {
					return
				}
			}
		}
	}
}

// Head is Bucket's.
func (b *S3) Head(ctx context.Context, key string) (Object, error) {
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.bucket, Key: b.key(key)})
	if err != nil {
		return Object{}, b.explain(ctx, "head", key, err)
	}
	return Object{Key: key, Size: aws.ToInt64(out.ContentLength), ETag: aws.ToString(out.ETag), Modified: aws.ToTime(out.LastModified)}, nil
}

// Now is the clock of the service, to compare one's own with.
func (b *S3) Now(ctx context.Context) (time.Time, error) {
	one := int32(1)
	out, err := b.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b.bucket, Prefix: &b.prefix, MaxKeys: &one})
	if err != nil {
		return time.Time{}, b.explain(ctx, "list", "", err)
	}
	at, ok := awsmiddleware.GetServerTime(out.ResultMetadata)
	if !ok {
		return time.Time{}, fmt.Errorf("bucket %s does not say what time it is", b.bucket)
	}
	return at, nil
}

// Delete is Bucket's.
func (b *S3) Delete(ctx context.Context, key string) error {
	_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.bucket, Key: b.key(key)})
	if err = b.explain(ctx, "delete", key, err); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// explain turns an error of the SDK into one of Bucket's.
func (b *S3) explain(ctx context.Context, op, key string, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	code, status, text := "", 0, err.Error()
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		code, text = e.ErrorCode(), strings.TrimSpace(e.ErrorCode()+" "+e.ErrorMessage())
	}
	if e, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		status = e.HTTPStatusCode()
	}
	var kind error
	switch {
	case code == "NoSuchBucket":
		return fmt.Errorf("bucket %s is not there (%d %s)", b.bucket, status, text)
	case code == "NoSuchKey", code == "NotFound", status == http.StatusNotFound:
		kind = fs.ErrNotExist
	case op == "put" && (code == "PreconditionFailed" || status == http.StatusPreconditionFailed):
		kind = fs.ErrExist
	case code == "PreconditionFailed", status == http.StatusPreconditionFailed:
		kind = ErrChanged
	case code == "InvalidRange", status == http.StatusRequestedRangeNotSatisfiable:
		kind = io.ErrUnexpectedEOF
	case status == http.StatusForbidden, status == http.StatusUnauthorized, code == "ExpiredToken", code == "InvalidToken",
		strings.Contains(text, "get credentials"): // the SDK has no type for a chain that ends without any
		kind = ErrDenied
	}
	if kind != nil {
		return fmt.Errorf("%s %s in bucket %s: %w (%d %s)", op, key, b.bucket, kind, status, text)
	}
	return fmt.Errorf("%s %s in bucket %s: %d %s", op, key, b.bucket, status, text)
}
