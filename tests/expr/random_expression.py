# SPDX-License-Identifier: MIT
"""Random trees of the expression language: their text, and their value by bounded_number.py.

A tree is a tuple of a kind and its parts; conditions are trees of their own kinds:
  ("name", name) ("number", text, value) ("D",) ("column",) ("call", function, arguments...) ("user", arguments...)
  ("infix", operator, a, b) ("negate", a) ("plus", a) ("cast", a) ("row", function, a) ("choose", condition, a, b)
  ("select", condition, a, b) ("01", condition) ("compare", operator, a, b) ("logic", operator, a, b) ("not", a)
"""
import struct

from bounded_number import FUNCTIONS, Number, apart, apply, constant, extreme_of, product_of, sum_of

INPUTS = ["x", "u", "w"]
UNARY = ["abs", "exp", "exp2", "tanh", "sin", "cos", "tan", "atan", "asinh", "sinh", "cosh", "erf", "erfc",
         "sigmoid", "silu", "gelu_tanh", "gelu", "softplus", "relu", "square", "saturate", "sign", "floor", "ceil",
         "trunc", "round", "rint", "fract", "cbrt", "expm1", "exp10"]
INFIX = ["+", "-", "*", "+", "-", "*", "/"]
BINARY = ["max", "min", "fmax", "fmin", "atan2", "fmod", "copysign", "step"]
TERNARY = ["fma", "clamp", "mix"]
ROW = ["row_sum", "row_mean", "row_max", "row_min", "row_prod", "row_cumsum"]
SYNONYMS = {"abs": ["abs", "fabs"], "sigmoid": ["sigmoid", "kk_sigmoid", "kk_sigmoid<T>"],
            "silu": ["silu", "kk_silu"], "gelu_tanh": ["gelu_tanh", "kk_gelu_tanh"]}
NUMBERS = ["0.5", "2", "1.5f", ".25", "3.", "1e-1", "0.7h", "1", "1.25e0", "0.3F", "M_PI_F", "0x3"]
LEVELS = {"||": 1, "&&": 2, "==": 3, "!=": 3, "<": 4, "<=": 4, ">": 4, ">=": 4, "+": 5, "-": 5, "*": 6,
          "/": 6}
CHOICE, PREFIX, PRIMARY = 0, 7, 8


def float32(number):
    return struct.unpack("f", struct.pack("f", number))[0]


def number_value(text):
    if text == "M_PI_F":
        return float32(3.14159265358979323846)
    return float(int(text, 16)) if text.startswith("0x") else float32(float(text.rstrip("fFh")))


class Generator:
    def __init__(self, random, names, has_rows, user_arity):
        self.random, self.names, self.has_rows, self.user_arity = random, names, has_rows, user_arity

    def leaf(self):
        if self.random.random() < 0.25:
            if self.has_rows and self.random.random() < 0.3:
                return self.random.choice([("D",), ("call", "column")])
            text = self.random.choice(NUMBERS)
            return ("number", text, number_value(text))
        return ("name", self.random.choice(self.names))

    def tree(self, depth):
        pick = self.random.random()
        if depth == 0 or pick < 0.08:
            return self.leaf()
        some = lambda: self.tree(depth - 1)
        if self.has_rows and pick < 0.3:
            return ("row", self.random.choice(ROW), some())
        if self.user_arity and self.random.random() < 0.15:
            return ("user", *[some() for _ in range(self.user_arity)])
        if pick < 0.50:
            return ("infix", self.random.choice(INFIX), some(), some())
        if pick < 0.68:
            return ("call", self.random.choice(UNARY), some())
        if pick < 0.75:
            return self.guarded(some())
        if pick < 0.82:
            return ("call", self.random.choice(BINARY), some(), some())
        if pick < 0.86:
            return ("call", self.random.choice(TERNARY), some(), some(), some())
        if pick < 0.94:
            return (self.random.choice(["choose", "choose", "select"]), self.condition(depth - 1), some(), some())
        if pick < 0.96:
            return ("01", self.condition(depth - 1))
        return (self.random.choice(["negate", "negate", "plus", "cast"]), some())

    def guarded(self, a):
        """A function with a limited domain, of an argument inside it, or (sometimes) of whatever comes."""
        number = lambda text: ("number", text, number_value(text))
        positive = ("infix", "+", ("call", self.random.choice(["square", "abs", "softplus"]), a), number(".25"))
        inside = ("infix", "*", number("0.7h"), ("call", self.random.choice(["sin", "tanh"]), a))
        kind = self.random.randrange(4)
        if kind == 0:
            argument = a if self.random.random() < 0.3 else positive
            return ("call", self.random.choice(["log", "log2", "log10", "sqrt", "rsqrt", "log1p"]), argument)
        if kind == 1:
            return ("call", self.random.choice(["asin", "acos", "atanh"]), inside)
        if kind == 2:
            steps = ("number", "1e-1", number_value("1e-1")), ("number", "1.5f", 1.5)
            return self.random.choice([("call", "acosh", ("infix", "+", positive, ("number", "1", 1.0))),
                                       ("call", "smoothstep", *steps, a)])
        exponent = self.random.choice([number("2"), number("3."), number("0.5"), number("1"), self.leaf()])
        return ("call", self.random.choice(["pow", "powr"]), positive, exponent)

    def condition(self, depth):
        pick = self.random.random()
        if pick < 0.7 or depth == 0:
            operator = self.random.choice(["<", "<=", ">", ">=", "<", ">", "==", "!="])
            return ("compare", operator, self.tree(max(depth - 1, 0)), self.tree(max(depth - 1, 0)))
        if pick < 0.85:
            return ("logic", self.random.choice(["&&", "||"]), self.condition(depth - 1), self.condition(depth - 1))
        if pick < 0.93:
            return ("not", self.condition(depth - 1))
        return ("call", self.random.choice(["isnan", "isinf", "isfinite"]), self.tree(depth - 1))


class Writer:
    """Text with no more parentheses than needed, but for some."""

    def __init__(self, random):
        self.random = random

    def write(self, tree, level=CHOICE):
        text, own = self.form(tree)
        if own < level or self.random.random() < 0.05:
            return f"({text})"
        return text

    def arguments(self, trees):
        return "(" + self.random.choice([", ", ","]).join(self.write(tree) for tree in trees) + ")"

    def form(self, tree):
        kind = tree[0]
        if kind in ("name", "number", "D"):
            return (tree[1] if kind != "D" else "D"), PRIMARY
        if kind == "call":
            name = self.random.choice(SYNONYMS.get(tree[1], [tree[1]]))
            prefixes = [""] if "_" in name else [""] * 6 + ["metal::", "metal::precise::", "std::"]
            prefix = self.random.choice(prefixes)
            return prefix + name + self.arguments(tree[2:]), PRIMARY
        if kind == "user":
            return "helper" + self.arguments(tree[1:]), PRIMARY
        if kind == "row":
            return tree[1] + self.arguments(tree[2:]), PRIMARY
        if kind == "select":
            return "select" + self.arguments((tree[3], tree[2], tree[1])), PRIMARY
        if kind == "cast":
            form = self.random.choice(["(float){}", "float({})", "(T){}", "static_cast<T>({})"])
            return form.format(self.write(tree[1], PREFIX if "){" in form else CHOICE)), PREFIX
        if kind in ("negate", "plus", "not"):
            sign = {"negate": "-", "plus": "+", "not": "!"}[kind]
            inner = self.write(tree[1], PREFIX)
            return (f"{sign}({inner})" if inner[0] == sign else sign + inner), PREFIX
        if kind == "choose":
            return f"{self.write(tree[1], 1)} ? {self.write(tree[2])} : {self.write(tree[3])}", CHOICE
        if kind == "01":
            return self.form(tree[1])
        operator, level = tree[1], LEVELS[tree[1]]  # infix, compare, logic: left-associative
        return f"{self.write(tree[2], level)} {operator} {self.write(tree[3], level + 1)}", level


class Reader:
    """Evaluates on a row: names gives each the list of its columns' Numbers."""

    def __init__(self, names, columns, user):
        self.names, self.columns, self.user = names, columns, user

    def value(self, tree):
        kind = tree[0]
        if kind == "name":
            return self.names[tree[1]]
        if kind == "number":
            return [constant(tree[2])] * self.columns
        if kind == "D":
            return [constant(float(self.columns))] * self.columns
        if tree[:2] == ("call", "column"):
            return [constant(float(column)) for column in range(self.columns)]
        if kind in ("plus", "cast"):
            return self.value(tree[1])
        if kind == "row":
            return self.over_row(tree[1], self.value(tree[2]))
        if kind == "user":
            parameters, body = self.user
            arguments = [self.value(part) for part in tree[1:]]
            return Reader(dict(zip(parameters, arguments)), self.columns, None).value(body)
        if kind in ("choose", "select"):
            then, otherwise = self.value(tree[2]), self.value(tree[3])
            return [a if test else b for test, a, b in zip(self.test(tree[1]), then, otherwise)]
        if kind == "01" or kind in ("compare", "logic", "not"):
            return [constant(float(test)) for test in self.test(tree[1] if kind == "01" else tree)]
        function = FUNCTIONS[{"infix": tree[1], "call": tree[1], "negate": "negate"}[kind]]
        operands = [self.value(part) for part in tree[1 if kind == "negate" else 2:]]
        return [function(*column) for column in zip(*operands)]

    def test(self, tree):
        kind = tree[0]
        if kind == "not":
            return [not test for test in self.test(tree[1])]
        if kind == "logic":
            pairs = list(zip(self.test(tree[2]), self.test(tree[3])))
            return [a and b if tree[1] == "&&" else a or b for a, b in pairs]
        if kind == "call":
            return [tree[1] == "isfinite" for _ in self.value(tree[2])]
        less = [apart(a, b) for a, b in zip(self.value(tree[2]), self.value(tree[3]))]  # never equal
        return [{"<": is_less, "<=": is_less, ">": not is_less, ">=": not is_less, "==": False, "!=": True}[tree[1]]
                for is_less in less]

    def over_row(self, function, row):
        if function == "row_cumsum":
            return [sum_of(row[:column + 1]) for column in range(self.columns)]
        if function == "row_mean":
            result = apply("/", sum_of(row), constant(float(self.columns)))
        else:
            result = {"row_sum": sum_of, "row_prod": product_of,
                      "row_max": lambda numbers: extreme_of(numbers, FUNCTIONS["max"]),
                      "row_min": lambda numbers: extreme_of(numbers, FUNCTIONS["min"])}[function](row)
        return [result] * self.columns


class Expression:
    """Statements and an expression over the first of INPUTS, with a function of the header or without."""

    def __init__(self, random):
        self.inputs = INPUTS[:random.randint(1, 3)]
        self.has_rows = random.random() < 0.25
        parameters = ["a", "b"][:random.randint(1, 2)] if random.random() < 0.15 else []
        writer = Writer(random)
        self.header, self.user = "", None
        if parameters:
            body = Generator(random, parameters, False, 0).tree(2)
            self.user = (parameters, body)
            declarations = ", ".join(f"{random.choice(['float', 'T'])} {name}" for name in parameters)
            self.header = f"template <typename T> inline T helper({declarations}) {{ return {writer.write(body)}; }}"
        names, self.locals, text = list(self.inputs), [], ""
        for name in ["s", "t"][:random.choice([0, 0, 1, 2])]:
            tree = Generator(random, names, self.has_rows, len(parameters)).tree(3)
            text += f"{random.choice(['float', 'const T', 'auto'])} {name} = {writer.write(tree)}; "
            self.locals.append((name, tree))
            names.append(name)
        self.tree = Generator(random, names, self.has_rows, len(parameters)).tree(random.randint(2, 5))
        self.by_row = self.has_rows and random.random() < 0.3  # the result has one number a row
        if self.by_row:
            self.tree = ("row", random.choice(ROW[:-1]), self.tree)
        elif self.has_rows:
            self.tree = ("infix", random.choice("+-*"), ("row", random.choice(ROW), self.tree), ("name", "x"))
        self.text = text + writer.write(self.tree)

    def evaluate(self, row):
        """row: for each input the columns' values. The result's Numbers; variables are (input, column)."""
        columns = len(row[0])
        names = {name: [Number.variable(value, (i, column)) for column, value in enumerate(row[i])]
                 for i, name in enumerate(self.inputs)}
        reader = Reader(names, columns, self.user)
        for name, tree in self.locals:
            names[name] = reader.value(tree)
        return reader.value(self.tree)[:1 if self.by_row else columns]
