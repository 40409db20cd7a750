# SPDX-License-Identifier: MIT
"""The language of docs/expr.md, read and evaluated in float64 by rules written down here a second time.

    outputs = evaluate("exp(x - row_max(x))", {"x": [0.5, 2.0, 1.0]})   # of one row: {"y": (True, [...])}

A value is (has_elements, one number an element): a value of the row is the same number everywhere."""
import math
import re
import struct

NAN = math.nan
TYPES = {"T", "O", "float", "half", "bfloat", "float16_t", "bfloat16_t"}
PREFIXES = {"metal", "precise", "fast", "std"}
TOKEN = re.compile(r"\s+|//[^\n]*|/\*.*?\*/|(0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[fFhu]?)"
                   r"|([A-Za-z_]\w*)|(::|<=|>=|==|!=|&&|\|\||[-+*/<>!?:(),;=])", re.S)


def float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


CONSTANTS = {
    "true": 1.0, "false": 0.0, "INFINITY": math.inf, "HUGE_VALF": math.inf, "HUGE_VAL": math.inf, "NAN": NAN,
    "FLT_MAX": 2.0**128 - 2.0**104, "MAXFLOAT": 2.0**128 - 2.0**104, "FLT_MIN": 2.0**-126, "FLT_EPSILON": 2.0**-23}
for constant, number in {
        "PI": math.pi, "PI_2": math.pi / 2, "PI_4": math.pi / 4, "1_PI": 1 / math.pi, "2_PI": 2 / math.pi,
        "2_SQRTPI": 2 / math.sqrt(math.pi), "E": math.e, "LOG2E": 1 / math.log(2), "LOG10E": 1 / math.log(10),
        "LN2": math.log(2), "LN10": math.log(10), "SQRT2": math.sqrt(2), "SQRT1_2": math.sqrt(0.5)}.items():
    CONSTANTS["M_" + constant] = CONSTANTS["M_" + constant + "_F"] = float32(number)


def saturate(a):
    return min(max(a, 0.0), 1.0)


def smoothstep(a, b, c):
    t = saturate((c - a) / (b - a))
    return t * t * (3 - 2 * t)


def sigmoid(a):
    return 1 / (1 + math.exp(-a))


def sign(a):
    return float((a > 0) - (a < 0))


# Of numbers: NaN for NaN, and where Python finds the argument outside the domain.
PLAIN = {
    "abs": abs, "fabs": abs, "sign": sign, "min": min, "max": max,
    "clamp": lambda a, b, c: min(max(a, b), c), "saturate": saturate, "fma": lambda a, b, c: a * b + c,
    "fmod": math.fmod, "mix": lambda a, b, c: a + (b - a) * c, "smoothstep": smoothstep,
    "square": lambda a: a * a, "floor": math.floor, "ceil": math.ceil, "trunc": math.trunc,
    "round": lambda a: math.copysign(math.floor(abs(a) + 0.5), a), "rint": round, "fract": lambda a: a - math.floor(a),
    "sqrt": math.sqrt, "rsqrt": lambda a: 1 / math.sqrt(a), "cbrt": lambda a: math.copysign(abs(a) ** (1 / 3), a),
    "exp": math.exp, "exp2": lambda a: 2.0**a, "exp10": lambda a: 10.0**a, "expm1": math.expm1,
    "log": math.log, "log2": math.log2, "log10": math.log10, "log1p": math.log1p,
    "sin": math.sin, "cos": math.cos, "tan": math.tan, "asin": math.asin, "acos": math.acos, "atan": math.atan,
    "atan2": math.atan2, "sinh": math.sinh, "cosh": math.cosh, "tanh": math.tanh, "asinh": math.asinh,
    "acosh": math.acosh, "atanh": math.atanh, "erf": math.erf, "erfc": math.erfc,
    "sigmoid": sigmoid, "kk_sigmoid": sigmoid, "silu": lambda a: a * sigmoid(a), "kk_silu": lambda a: a * sigmoid(a),
    "gelu": lambda a: a / 2 * math.erfc(-a / math.sqrt(2)), "relu": lambda a: max(a, 0.0),
    "gelu_tanh": lambda a: a / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))),
    "softplus": lambda a: math.log(1 + math.exp(a)),
    "stored": lambda a: a, "stored_sigmoid": sigmoid, "mlx_sigmoid": sigmoid,
    "stored_gelu_tanh": lambda a: a / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))),
    "logsigmoid": lambda a: -math.log(1 + math.exp(-a))}
PLAIN["kk_gelu_tanh"] = PLAIN["gelu_tanh"]


def wrap(function):
    def wrapped(*arguments):
        if any(math.isnan(argument) for argument in arguments):
            return NAN
        try:
            return float(function(*arguments))
        except (ValueError, ZeroDivisionError):
            return NAN
    return wrapped


def power(a, b):
    try:
        return math.pow(a, b)
    except ValueError:
        return NAN


ELEMENT_FUNCTIONS = {name: wrap(function) for name, function in PLAIN.items()}
ELEMENT_FUNCTIONS.update({
    "copysign": math.copysign, "select": lambda a, b, c: b if c != 0 else a, "step": lambda a, b: 0.0 if b < a else 1.0,
    "fmin": lambda a, b: b if math.isnan(a) else a if math.isnan(b) else min(a, b),
    "fmax": lambda a, b: b if math.isnan(a) else a if math.isnan(b) else max(a, b),
    "pow": power, "powr": lambda a, b: NAN if a < 0 else power(a, b), "isnan": lambda a: float(math.isnan(a)),
    "isinf": lambda a: float(math.isinf(a)), "isfinite": lambda a: float(math.isfinite(a))})


def running(values):
    total, sums = 0.0, []
    for value in values:
        total += value
        sums.append(total)
    return sums


ROW_FUNCTIONS = {
    "row_sum": sum, "row_sum_in_order": sum, "row_prod": math.prod, "row_max": max,
    "row_mean": lambda values: sum(values) / len(values),
    "row_exp_sum": lambda values: sum(math.exp(value - max(values)) for value in values),
    "row_min": min, "row_argmax": lambda values: float(values.index(max(values)))}
SCANS = {"row_cumsum": running, "row_cumsum_reverse": lambda values: running(values[::-1])[::-1]}
OPERATORS = {
    "*": lambda a, b: a * b, "/": lambda a, b: a / b, "+": lambda a, b: a + b, "-": lambda a, b: a - b,
    "<": lambda a, b: float(a < b), "<=": lambda a, b: float(a <= b), ">": lambda a, b: float(a > b),
    ">=": lambda a, b: float(a >= b), "==": lambda a, b: float(a == b), "!=": lambda a, b: float(a != b),
    "&&": lambda a, b: float(a != 0 and b != 0), "||": lambda a, b: float(a != 0 or b != 0)}
LEVELS = [["||"], ["&&"], ["==", "!="], ["<", "<=", ">", ">="], ["+", "-"], ["*", "/"]]


def split(text):
    tokens, at = [], 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if not match:
            raise SyntaxError(f"{text[at:at + 10]!r} in {text!r}")
        at = match.end()
        if match.lastindex:
            tokens.append(match[0])
    return tokens + [""]


class Row:
    """One text on one row; without inputs it only collects the names that it needs."""

    def __init__(self, text, inputs):
        self.tokens, self.at, self.inputs, self.locals, self.needed = split(text), 0, inputs, {}, []
        self.length = len(next(iter(inputs.values()))) if inputs else 1
        self.declared, self.assigned, self.result = set(), [], None
        self.statements()

    def peek(self, *texts):
        return self.tokens[self.at] in texts

    def accept(self, *texts):
        if not self.peek(*texts):
            return None
        self.at += 1
        return self.tokens[self.at - 1]

    def expect(self, text):
        if not self.peek(text):
            raise SyntaxError(f"{self.tokens[self.at]!r} instead of {text!r}")
        self.at += 1

    def statements(self):
        while not self.peek(""):
            self.accept("const")
            follows = self.tokens[self.at + 1]
            if self.accept("return"):
                self.result = self.condition()
            elif self.tokens[self.at] in TYPES | {"auto"} and follows not in "<(":
                self.at += 1
                self.declared.add(self.tokens[self.at])
                self.assign()
            elif follows == "=":
                self.assign()
            else:
                self.result = self.condition()
            if not self.accept(";") and not self.peek(""):
                raise SyntaxError(f"{self.tokens[self.at]!r} after a statement")

    def assign(self):
        name = self.tokens[self.at]
        self.at += 1
        self.expect("=")
        self.locals[name] = self.condition()
        if name not in self.declared and name not in self.assigned:
            self.assigned.append(name)

    def outputs(self):
        return {"y": self.result} if self.result else {name: self.locals[name] for name in self.assigned}

    def condition(self):
        choice = self.binary(0)
        if not self.accept("?"):
            return choice
        first = self.condition()
        self.expect(":")
        return self.each(lambda c, a, b: a if c != 0 else b, choice, first, self.condition())

    def binary(self, level):
        if level == len(LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while operator := self.accept(*LEVELS[level]):
            left = self.each(OPERATORS[operator], left, self.binary(level + 1))
        return left

    def unary(self):
        if self.accept("-"):
            return self.each(lambda a: -a, self.unary())
        if self.accept("+"):
            return self.unary()
        if self.accept("!"):
            return self.each(lambda a: float(a == 0), self.unary())
        if self.peek("(") and self.tokens[self.at + 1] in TYPES and self.tokens[self.at + 2] == ")":
            self.at += 3
            return self.unary()
        return self.primary()

    def primary(self):
        if self.accept("("):
            inside = self.condition()
            self.expect(")")
            return inside
        token = self.tokens[self.at]
        self.at += 1
        if token[0].isdigit() or token[0] == ".":
            return self.same(float(int(token, 16)) if token[:2] in ("0x", "0X") else float32(float(token.rstrip("fFhu"))))
        while self.peek("::") and token in PREFIXES:
            token = self.tokens[self.at + 1]
            self.at += 2
        if (token == "static_cast" or not self.peek("<") or self.tokens[self.at + 1] not in TYPES) and not self.peek("(", "<"):
            return self.name(token)
        if self.peek("<") and self.tokens[self.at + 1] in TYPES:
            self.at += 3
        return self.call(token) if self.peek("(") else self.name(token)

    def name(self, name):
        if name in self.locals:
            return self.locals[name]
        if name in CONSTANTS:
            return self.same(CONSTANTS[name])
        if name == "D":
            return self.same(float(self.length))
        if name not in self.needed:
            self.needed.append(name)
        return True, self.inputs.get(name, [1.0] * self.length)

    def call(self, name):
        self.expect("(")
        arguments = []
        while not self.accept(")"):
            arguments.append(self.condition())
            self.accept(",")
        if name in TYPES or name == "static_cast":
            return arguments[0]
        if name == "column":
            return True, [float(i) for i in range(self.length)]
        if name in ROW_FUNCTIONS:
            return self.same(ROW_FUNCTIONS[name](arguments[0][1]))
        if name in SCANS:
            return True, SCANS[name](arguments[0][1])
        if name == "row_gather":
            return arguments[1][0], [self.gather(arguments[0][1], index) for index in arguments[1][1]]
        return self.each(ELEMENT_FUNCTIONS[name], *arguments)

    def gather(self, values, index):
        return values[math.floor(index)] if 0 <= index < self.length else NAN

    def same(self, number):
        return False, [number] * self.length

    def each(self, function, *values):
        return any(value[0] for value in values), [function(*numbers) for numbers in zip(*(value[1] for value in values))]


def needed_names(text):
    return Row(text, {}).needed


def evaluate(text, inputs):
    return Row(text, inputs).outputs()
