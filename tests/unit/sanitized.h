/* SPDX-License-Identifier: MIT */
/* SANITIZED: whether this is a build with sanitizers, which see in the first rounds of a loop what they see in all, and
 * are slow. */
#ifndef ZM_TESTS_SANITIZED_H
#define ZM_TESTS_SANITIZED_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#endif
