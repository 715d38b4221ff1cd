package bucket

import (
	"cmp"
	"context"
	"crypto/md5" //nolint:gosec // the ETag of a part
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

const (
	minPart      = 8 << 20 // S3 asks for at least 5 MiB
	maxParts     = 10_000  // S3's limit
	partsAtOnce  = 4
	uploadMaxAge = 6 * 24 * time.Hour // older uploads may be ended by a rule of the bucket at any moment
)

// partsOf divides size bytes into parts.
func (b *S3) partsOf(size int64) (partSize int64, parts int) {
	partSize = b.partSize
	for (size+partSize-1)/partSize > maxParts {
		partSize *= 2
	}
	return partSize, int((size + partSize - 1) / partSize)
}

// putParts uploads a large body. An upload of the key that was left unfinished goes on: its parts are compared and
// kept where they are the same.
func (b *S3) putParts(ctx context.Context, key string, body io.ReaderAt, size int64, progress func(int64)) error {
	if _, err := b.Head(ctx, key); err == nil {
		return fmt.Errorf("put %s in bucket %s: %w", key, b.bucket, fs.ErrExist)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	id, done, err := b.unfinished(ctx, key)
	if err != nil {
		return err
	}
	if id == "" {
		out, err := b.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &b.bucket, Key: b.key(key)})
		if err != nil {
			return b.explain(ctx, "put", key, err)
		}
		id = aws.ToString(out.UploadId)
	}
	partSize, count := b.partsOf(size)
	parts := make([]types.CompletedPart, count)
	var mu sync.Mutex
	tell := func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		progress(n)
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(partsAtOnce)
	for i := range count {
		group.Go(func() error {
			if err := gctx.Err(); err != nil {
				return err
			}
			offset := int64(i) * partSize
			length := min(partSize, size-offset)
			part, err := b.putPart(gctx, key, id, int32(i+1), io.NewSectionReader(body, offset, length), done[int32(i+1)])
			if err != nil {
				return err
			}
			parts[i] = part
			tell(length)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	_, err = b.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &b.bucket, Key: b.key(key), UploadId: &id, IfNoneMatch: aws.String("*"),
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	if err = b.explain(ctx, "put", key, err); errors.Is(err, fs.ErrExist) {
		b.abort(ctx, key, id) // another one was faster, and nobody will go on with this one
	}
	return err
}

// abort gives up an upload, whose parts would be paid for until a rule of the bucket removes them. Where it may not, such
// a rule must.
func (b *S3) abort(ctx context.Context, key, id string) {
	_, _ = b.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.bucket, Key: b.key(key), UploadId: &id})
}

// unfinished finds the last upload of a key that was not completed, and its parts.
func (b *S3) unfinished(ctx context.Context, key string) (id string, parts map[int32]types.Part, err error) {
	full := aws.ToString(b.key(key))
	out, err := b.client.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &b.bucket, Prefix: &full})
	if err != nil {
		if err = b.explain(ctx, "put", key, err); errors.Is(err, ErrDenied) || strings.Contains(err.Error(), "NotImplemented") {
			return "", nil, nil // then nothing goes on, and everything is sent
		}
		return "", nil, err
	}
	uploads := slices.DeleteFunc(out.Uploads, func(u types.MultipartUpload) bool {
		if aws.ToString(u.Key) != full {
			return true
		}
		old := time.Since(aws.ToTime(u.Initiated)) > uploadMaxAge
		if old {
			b.abort(ctx, key, aws.ToString(u.UploadId))
		}
		return old
	})
	if len(uploads) == 0 {
		return "", nil, nil
	}
	last := slices.MaxFunc(uploads, func(a, b types.MultipartUpload) int {
		return cmp.Or(aws.ToTime(a.Initiated).Compare(aws.ToTime(b.Initiated)), strings.Compare(aws.ToString(a.UploadId), aws.ToString(b.UploadId)))
	})
	id, parts = aws.ToString(last.UploadId), map[int32]types.Part{}
	pages := s3.NewListPartsPaginator(b.client, &s3.ListPartsInput{Bucket: &b.bucket, Key: &full, UploadId: &id})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			if err = b.explain(ctx, "put", key, err); errors.Is(err, fs.ErrNotExist) {
				return "", nil, nil // completed or ended meanwhile
			}
			return "", nil, err
		}
		for _, p := range page.Parts {
			parts[aws.ToInt32(p.PartNumber)] = p
		}
	}
	return id, parts, nil
}

// putPart uploads one part, unless had is the same. Where the ETag of a part is no MD5 (KMS), it is sent again.
func (b *S3) putPart(ctx context.Context, key, id string, number int32, body *io.SectionReader, had types.Part) (types.CompletedPart, error) {
	if aws.ToInt64(had.Size) == body.Size() && had.ETag != nil {
		h := md5.New() //nolint:gosec // an ETag
		if _, err := io.Copy(h, body); err != nil {
			return types.CompletedPart{}, err
		}
		if strings.Trim(*had.ETag, `"`) == hex.EncodeToString(h.Sum(nil)) {
			return types.CompletedPart{PartNumber: &number, ETag: had.ETag}, nil
		}
		if _, err := body.Seek(0, io.SeekStart); err != nil {
			return types.CompletedPart{}, err
		}
	}
	length := body.Size()
	out, err := b.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket: &b.bucket, Key: b.key(key), UploadId: &id, PartNumber: &number, Body: body, ContentLength: &length,
	})
	if err != nil {
		return types.CompletedPart{}, b.explain(ctx, "put", key, err)
	}
	// The checksum that came along was compared when the part arrived. It is not told again: the upload was made
	// without one, as it may be continued by a program that uses another.
	return types.CompletedPart{PartNumber: &number, ETag: out.ETag}, nil
}
