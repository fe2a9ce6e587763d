"""Triton's interpreter without half of its work.

At each call of a device function it looks through all of triton.language for builtins to replace, though the launch
has replaced them already. Small kernels call hundreds of functions, and spend half of their time on that.
"""


def install():
    """Replaces once a launch what is to be replaced; does nothing where Triton is missing or has changed."""
    try:
        import triton.language as tl
        from triton.runtime import interpreter

        patch, no_changes = interpreter._patch_lang, interpreter._LangPatchScope
        is_builtin = tl.core.is_builtin
    except (ImportError, AttributeError):
        return
    seen = {}

    def patch_what_is_not(function):
        if function not in seen:
            seen[function] = [one for one in function.__globals__.values() if one is tl or one is tl.core]
        if any(is_builtin(language.load) for language in seen[function]):
            return patch(function)
        return no_changes()

    interpreter._patch_lang = patch_what_is_not
