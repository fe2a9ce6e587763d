"""Triton's interpreter without work whose result nobody sees: a third of the time that kernels take in it.

Most of what small kernels wait for is Python around NumPy's operations. What is left out here is done once and
kept, or thrown away by the interpreter itself; numbers and errors are its own.
"""

from dataclasses import replace


def install():
    """Changes the interpreter; does nothing where Triton is missing or has changed."""
    try:
        import triton.language as tl
        from triton.runtime import interpreter

        found = (
            interpreter._patch_lang,
            interpreter._LangPatchScope,
            interpreter._get_np_dtype,
            tl.core.is_builtin,
            replace(interpreter.interpreter_builder.options, sanitize_overflow=False),
        )
    except (ImportError, AttributeError, TypeError):
        return
    patch, no_changes, dtype_of, is_builtin, options = found
    interpreter._patch_lang = _once_a_launch(patch, no_changes, is_builtin, tl)
    interpreter._get_np_dtype = _once_a_type(dtype_of)
    tl.core.block_type.__init__ = _once_a_shape(tl.core.block_type.__init__, tl.dtype)
    if not options.debug:  # only then does anybody look at what the check of each sum and product finds
        interpreter.interpreter_builder.options = options


def _once_a_launch(patch, no_changes, is_builtin, tl):
    """Builtins are replaced by the launch, and not looked for again at each call of a device function."""
    seen = {}

    def patch_what_is_not(function):
        if function not in seen:
            seen[function] = [one for one in function.__globals__.values() if one is tl or one is tl.core]
        if any(is_builtin(language.load) for language in seen[function]):
            return patch(function)
        return no_changes()

    return patch_what_is_not


def _once_a_type(dtype_of):
    """NumPy's dtype of a type by the type's name, instead of from a table that is written anew at each call."""
    known = {}

    def dtype_by_name(type_):
        name = type_.scalar.name
        if name not in known:
            known[name] = dtype_of(type_)
        return known[name]

    return dtype_by_name


def _once_a_shape(describe, dtype):
    """A type of blocks is checked and named when its element and shape come for the first time."""
    known = {}

    def describe_once(self, element_ty, shape):
        sizes = [getattr(size, "value", size) for size in shape]
        # Pointers of one name may differ, and 2.0 is no size though it equals one.
        if type(element_ty) is not dtype or {*map(type, sizes)} != {int}:
            return describe(self, element_ty, shape)
        key = (element_ty.name, *sizes)
        if key not in known:
            describe(self, element_ty, shape)
            known[key] = vars(self).copy()
        vars(self).update(known[key])

    return describe_once
