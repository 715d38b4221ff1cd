package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
)

// decodeNative reads the body of POST /api/v1/embed. An unknown field is an error: a misspelt "normalise"
// must not be ignored.
func decodeNative(body []byte, lim limits) (ask, error) {
	var a ask
	s := &scanner{b: body}
	seen := fields{}
	err := s.object(func(key string) (err error) {
		if err := seen.once(s, key); err != nil {
			return err
		}
		switch key {
		case "text":
			err = s.oneInputField(&a, key)
			if err == nil {
				var text string
				text, err = s.str()
				a.field, a.count = key, 1
				a.req.Inputs = []embedding.Input{{Text: text}}
			}
		case "texts", "inputs":
			if err = s.oneInputField(&a, key); err == nil {
				err = s.inputs(&a, lim)
			}
		case "model":
			a.req.Model, err = s.name()
		case "normalize":
			a.req.Normalize, err = s.optionalBool()
		case "truncate":
			a.req.Truncate, err = s.optionalBool()
		case "dimensions":
			a.req.Dimensions, err = s.dimensions()
		case "prompt_name":
			a.req.PromptName, err = s.name()
		default:
			s.at = key[:min(len(key), 64)]
			err = s.fail(s.i, "unknown field %.64q: the fields are text, texts, inputs, model, normalize, truncate, "+
				"dimensions and prompt_name", key)
		}
		return err
	})
	if err == nil {
		err = s.end()
	}
	if err == nil && a.field == "" {
		err = embedding.Errorf(embedding.CodeInvalid, `one of "text", "texts" and "inputs" is needed, got none`)
	}
	return a, err
}

// oneInputField refuses a second field of inputs.
func (s *scanner) oneInputField(a *ask, key string) error {
	if a.field != "" {
		return s.fail(s.i, "only one of \"text\", \"texts\" and \"inputs\" may be given, got %q and %q", a.field, key)
	}
	return nil
}

func (a *surface) serveNativeEmbed(c *call, r *http.Request) {
	a.serveEmbed(c, r, decodeNative, appendNative)
}

// serveEmbed is what the JSON routes share: deadline, decode, embed, encode.
func (a *surface) serveEmbed(c *call, r *http.Request, decode func([]byte, limits) (ask, error),
	encode func([]byte, ask, embedding.Result) []byte) {
	fail := func(err error) {
		a.metrics.embed(embedding.AsError(err).Code)
		c.fail(err)
	}
	ctx, cancel, err := a.deadline(r.Context(), r.Header, c.start)
	if err != nil {
		fail(err)
		return
	}
	defer cancel()
	buf := a.bodies.get()
	if err = a.readBody(c, r, buf); err != nil {
		a.bodies.put(buf)
		fail(err)
		return
	}
	asked, err := decode(buf.Bytes(), limits{inputs: a.cfg.MaxInputs, inputBytes: a.cfg.MaxInputBytes})
	a.bodies.put(buf) // the texts are copies
	if err != nil {
		fail(err)
		return
	}
	c.inputs.Store(int64(asked.count))
	res, err := a.embed(ctx, asked.req, asked.field, asked.count)
	if err != nil {
		c.fail(err)
		return
	}
	c.tokens.Store(int64(res.TotalTokens()))
	if err := c.hold(answerSize(res)); err != nil {
		c.fail(err)
		return
	}
	setResultHeaders(c.Header(), res, c.start)
	buf = a.bodies.get()
	defer a.bodies.put(buf)
	buf.Grow(answerSize(res))
	answer := encode(buf.AvailableBuffer(), asked, res)
	c.write(http.StatusOK, "application/json", answer)
}

func appendNative(b []byte, _ ask, res embedding.Result) []byte {
	b = append(b, `{"embeddings":[`...)
	for i, v := range res.Vectors {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendVector(b, v)
	}
	b = append(b, `],"model":`...)
	b = appendString(b, res.Model.String())
	b = append(b, `,"dimensions":`...)
	b = strconv.AppendInt(b, int64(len(res.Vectors[0])), 10)
	b = append(b, `,"usage":{"tokens":`...)
	b = strconv.AppendInt(b, int64(res.TotalTokens()), 10)
	b = append(b, `},"served_by":{"node":`...)
	b = appendString(b, res.Origin.Node)
	b = append(b, `,"region":`...)
	b = appendString(b, res.Origin.Region)
	b = append(b, `,"route":"`...)
	b = append(b, routeName(res.Origin)...)
	return append(b, "\"}}\n"...)
}

// nativeError is the body of a failed native or plain route.
type nativeError struct {
	Error struct {
		Code    embedding.Code `json:"code"`
		Message string         `json:"message"`
		Param   string         `json:"param,omitempty"`
	} `json:"error"`
	RequestID string `json:"request_id"`
}

func nativeFailure(e *embedding.Error, id string) nativeError {
	var doc nativeError
	doc.Error.Code, doc.Error.Message, doc.Error.Param = e.Code, e.Message, e.Param
	doc.RequestID = id
	return doc
}

// nativeModel is one model of GET /api/v1/models.
type nativeModel struct {
	Name       string               `json:"name"`
	Model      string               `json:"model"` // name@digest, as in answers
	Digest     string               `json:"digest"`
	Precision  string               `json:"precision"`
	Aliases    []string             `json:"aliases"`
	State      embedding.ModelState `json:"state"`
	Reason     string               `json:"reason,omitempty"`
	Dimensions int                  `json:"dimensions"`
	MaxTokens  int                  `json:"max_tokens"`
	Pooling    string               `json:"pooling"`
	Provider   string               `json:"provider"`
	Prompts    []string             `json:"prompts"`
	Loaded     *time.Time           `json:"loaded,omitempty"`
}

func (a *surface) serveNativeModels(c *call, _ *http.Request) {
	doc := struct {
		Models []nativeModel `json:"models"`
	}{[]nativeModel{}}
	for _, m := range a.node.Models() {
		n := nativeModel{
			Name: m.Model.Name, Model: m.Model.String(), Digest: m.Model.Digest, Precision: m.Model.Precision,
			Aliases: append([]string{}, m.Aliases...), State: m.State, Reason: m.Reason,
			Dimensions: m.Dimensions, MaxTokens: m.MaxTokens, Pooling: m.Pooling, Provider: m.Provider,
			Prompts: append([]string{}, m.Prompts...),
		}
		if !m.Loaded.IsZero() {
			loaded := m.Loaded.UTC()
			n.Loaded = &loaded
		}
		doc.Models = append(doc.Models, n)
	}
	c.writeJSON(http.StatusOK, doc)
}
