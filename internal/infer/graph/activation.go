package graph

import "math"

// activations is the functions between the two halves of the feed-forward part, by their names in
// transformers. Each takes the value x and gives the result; at precedes the names of its nodes.
func activations() map[string]func(e *encoder, at, x string) string {
	return map[string]func(e *encoder, at, x string) string{
		"gelu":              gelu,
		"gelu_new":          geluTanh,
		"gelu_pytorch_tanh": geluTanh,
		"relu": func(e *encoder, at, x string) string {
			return e.node(at+"relu", "Relu", []string{x})
		},
	}
}

// gelu is x/2 (1 + erf(x/sqrt 2)). Gelu is an operator from opset 20 only; ONNX Runtime fuses these nodes.
func gelu(e *encoder, at, x string) string {
	y := e.node(at+"gelu_div", "Div", []string{x, e.shared("sqrt_2", math.Sqrt2)})
	y = e.node(at+"gelu_erf", "Erf", []string{y})
	y = e.node(at+"gelu_add", "Add", []string{y, "one"})
	y = e.node(at+"gelu_mul", "Mul", []string{x, y})
	return e.node(at+"gelu", "Mul", []string{y, "half"})
}

// geluTanh is x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), in the form that ONNX Runtime fuses to FastGelu.
func geluTanh(e *encoder, at, x string) string {
	y := e.node(at+"gelu_pow", "Pow", []string{x, e.shared("three", 3)})
	y = e.node(at+"gelu_cubic", "Mul", []string{y, e.shared("gelu_cubic_factor", 0.044715)})
	y = e.node(at+"gelu_inner", "Add", []string{x, y})
	y = e.node(at+"gelu_scaled", "Mul", []string{y, e.shared("sqrt_2_over_pi", float32(math.Sqrt(2/math.Pi)))})
	y = e.node(at+"gelu_tanh", "Tanh", []string{y})
	y = e.node(at+"gelu_add", "Add", []string{y, "one"})
	h := e.node(at+"gelu_half", "Mul", []string{x, "half"})
	return e.node(at+"gelu", "Mul", []string{h, y})
}

// shared adds a scalar that several nodes use, once.
func (e *encoder) shared(name string, v float32) string {
	if !e.used[name] {
		if e.used == nil {
			e.used = make(map[string]bool)
		}
		e.used[name] = true
		e.floatScalar(name, v)
	}
	return name
}
