package api

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/akidb/akidbd/internal/embedding"
)

// decodeOpenAI reads the body of POST /v1/embeddings. Unknown fields are ignored, as OpenAI's clients send
// ones of their own; "user" is, too. normalize, truncate and prompt_name are not OpenAI's, but its clients can
// send them with extra_body.
func decodeOpenAI(body []byte, lim limits) (ask, error) {
	var a ask
	s := &scanner{b: body}
	seen := fields{}
	err := s.object(func(key string) (err error) {
		switch key {
		case "input", "model", "encoding_format", "dimensions", "normalize", "truncate", "prompt_name":
			if err := seen.once(s, key); err != nil {
				return err
			}
		}
		switch key {
		case "input":
			err = s.inputs(&a, lim)
		case "model":
			a.req.Model, err = s.name()
		case "encoding_format":
			a.base64, err = s.encodingFormat()
		case "dimensions":
			a.req.Dimensions, err = s.dimensions()
		case "normalize":
			a.req.Normalize, err = s.optionalBool()
		case "truncate":
			a.req.Truncate, err = s.optionalBool()
		case "prompt_name":
			a.req.PromptName, err = s.name()
		default:
			err = s.skip()
		}
		return err
	})
	if err == nil {
		err = s.end()
	}
	if err == nil && a.field == "" {
		err = &embedding.Error{Code: embedding.CodeInvalid, Param: "input",
			Message: `"input" is needed: a string or a list of strings`}
	}
	return a, err
}

func (s *scanner) encodingFormat() (isBase64 bool, err error) {
	if null, err := s.null(); null || err != nil {
		return false, err
	}
	s.space()
	pos := s.i
	format, err := s.str()
	switch {
	case err != nil:
		return false, err
	case format == "float":
		return false, nil
	case format == "base64":
		return true, nil
	}
	return false, s.fail(pos, `%s must be "float" or "base64", got %.40q`, s.subject(), format)
}

func (a *surface) serveOpenAIEmbed(c *call, r *http.Request) {
	a.serveEmbed(c, r, decodeOpenAI, appendOpenAI)
}

func appendOpenAI(b []byte, asked ask, res embedding.Result) []byte {
	b = append(b, `{"object":"list","data":[`...)
	for i, v := range res.Vectors {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"object":"embedding","index":`...)
		b = strconv.AppendInt(b, int64(i), 10)
		b = append(b, `,"embedding":`...)
		if asked.base64 {
			b = appendBase64(b, v)
		} else {
			b = appendVector(b, v)
		}
		b = append(b, '}')
	}
	b = append(b, `],"model":`...)
	b = appendString(b, res.Model.Name)
	tokens := int64(res.TotalTokens())
	b = append(b, `,"usage":{"prompt_tokens":`...)
	b = strconv.AppendInt(b, tokens, 10)
	b = append(b, `,"total_tokens":`...)
	b = strconv.AppendInt(b, tokens, 10)
	return append(b, "}}\n"...)
}

// openAIError is the body of a failed /v1/* route. param and code are null, not missing, when there are none.
type openAIError struct {
	Error struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    string  `json:"code"`
	} `json:"error"`
}

func openAIFailure(e *embedding.Error, row codeRow) openAIError {
	var doc openAIError
	doc.Error.Message, doc.Error.Type, doc.Error.Code = e.Message, row.openAIType, row.openAICode
	if e.Param != "" {
		doc.Error.Param = &e.Param
	}
	return doc
}

// openAIModel is one model of GET /v1/models.
type openAIModel struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"` // Unix seconds when it became ready
	OwnedBy string `json:"owned_by"`
}

func newOpenAIModel(id string, m embedding.ModelInfo) openAIModel {
	doc := openAIModel{ID: id, Object: "model", OwnedBy: "akidb"}
	if !m.Loaded.IsZero() {
		doc.Created = m.Loaded.Unix()
	}
	return doc
}

// serveOpenAIModels lists what can be asked for now: ready models by name and by alias.
func (a *surface) serveOpenAIModels(c *call, _ *http.Request) {
	doc := struct {
		Object string        `json:"object"`
		Data   []openAIModel `json:"data"`
	}{"list", []openAIModel{}}
	for _, m := range a.node.Models() {
		if m.State != embedding.ModelReady {
			continue
		}
		for _, id := range slices.Concat([]string{m.Model.Name}, m.Aliases) {
			doc.Data = append(doc.Data, newOpenAIModel(id, m))
		}
	}
	c.writeJSON(http.StatusOK, doc)
}

func (a *surface) serveOpenAIModel(c *call, r *http.Request) {
	asked := strings.TrimPrefix(r.URL.Path, "/v1/models/")
	name, digest := embedding.SplitModel(asked)
	for _, m := range a.node.Models() {
		if m.Model.Name != name && !slices.Contains(m.Aliases, name) {
			continue
		}
		if digest != "" && !m.Model.HasDigest(digest) {
			continue
		}
		if m.State != embedding.ModelReady {
			reason := m.Reason
			if reason == "" {
				reason = string(m.State)
			}
			c.fail(embedding.Errorf(embedding.CodeUnavailable, "model %q is not ready: %s", m.Model.Name, reason))
			return
		}
		c.writeJSON(http.StatusOK, newOpenAIModel(asked, m))
		return
	}
	e := embedding.Errorf(embedding.CodeModelNotFound, "there is no model %.256q here: GET /v1/models lists them", asked)
	e.Param = "model"
	c.fail(e)
}
