/* SPDX-License-Identifier: MIT */
/* mlx-c subset: vectors and maps of arrays, safetensors files. */
#include "private.hpp"

using namespace zm::capi;

namespace {

/* mlx-c's status for a missing key and for the end of an iteration. */
constexpr int not_found = 2;

Arrays arrays_of(const mlx_array *data, size_t size) {
    Arrays arrays;
    arrays.reserve(size);
    for (size_t i = 0; i < size; i++) arrays.push_back(get(data[i]));
    return arrays;
}

template <typename Container, typename Map_handle, typename Take>
int find_key(Map_handle map, const char *key, const Take &take) noexcept {
    int status = not_found;
    bool finished = guard([&] {
        Container &entries = get(map);
        auto entry = entries.find(key);
        if (entry == entries.end()) return;
        take(entry->second);
        status = 0;
    });
    return finished ? status : 1;
}

template <typename Container, typename Iterator_handle, typename Map_handle>
Iterator_handle first_entry(Map_handle map) noexcept {
    Iterator_handle handle{};
    guard([&] {
        handle.ctx = new typename Container::iterator(get(map).begin());
        handle.map_ctx = map.ctx;
    });
    return handle;
}

template <typename Container, typename Iterator_handle, typename Take>
int next_entry(const char **key, Iterator_handle it, const Take &take) noexcept {
    int status = not_found;
    bool finished = guard([&] {
        auto &position = object<typename Container::iterator>(it);
        if (position == static_cast<Container *>(it.map_ctx)->end()) return;
        take(position->second);
        *key = position->first.c_str();
        ++position;
        status = 0;
    });
    return finished ? status : 1;
}

}  // namespace

mlx_vector_array mlx_vector_array_new(void) {
    return make<mlx_vector_array>([] { return Arrays(); });
}

int mlx_vector_array_set(mlx_vector_array *vec, const mlx_vector_array src) {
    return assign(vec, [&] { return get(src); });
}

int mlx_vector_array_free(mlx_vector_array vec) { return release<Arrays>(vec); }

mlx_vector_array mlx_vector_array_new_data(const mlx_array *data, size_t size) {
    return make<mlx_vector_array>([&] { return arrays_of(data, size); });
}

mlx_vector_array mlx_vector_array_new_value(const mlx_array val) {
    return mlx_vector_array_new_data(&val, 1);
}

int mlx_vector_array_set_data(mlx_vector_array *vec, const mlx_array *data, size_t size) {
    return assign(vec, [&] { return arrays_of(data, size); });
}

int mlx_vector_array_set_value(mlx_vector_array *vec, const mlx_array val) {
    return mlx_vector_array_set_data(vec, &val, 1);
}

int mlx_vector_array_append_data(mlx_vector_array vec, const mlx_array *data, size_t size) {
    return attempt([&] {
        Arrays more = arrays_of(data, size);
        get(vec).insert(get(vec).end(), more.begin(), more.end());
    });
}

int mlx_vector_array_append_value(mlx_vector_array vec, const mlx_array val) {
    return attempt([&] { get(vec).push_back(get(val)); });
}

size_t mlx_vector_array_size(mlx_vector_array vec) {
    return value_or<size_t>(0, [&] { return get(vec).size(); });
}

int mlx_vector_array_get(mlx_array *res, const mlx_vector_array vec, size_t idx) {
    return assign(res, [&] { return get(vec).at(idx); });
}

mlx_map_string_to_array mlx_map_string_to_array_new(void) {
    return make<mlx_map_string_to_array>([] { return Map(); });
}

int mlx_map_string_to_array_set(mlx_map_string_to_array *map, const mlx_map_string_to_array src) {
    return assign(map, [&] { return get(src); });
}

int mlx_map_string_to_array_free(mlx_map_string_to_array map) { return release<Map>(map); }

int mlx_map_string_to_array_insert(mlx_map_string_to_array map, const char *key, const mlx_array value) {
    return attempt([&] { get(map).insert_or_assign(key, get(value)); });
}

int mlx_map_string_to_array_get(mlx_array *value, const mlx_map_string_to_array map, const char *key) {
    return find_key<Map>(map, key, [&](const mx::array &found) { put(*value, found); });
}

mlx_map_string_to_array_iterator mlx_map_string_to_array_iterator_new(mlx_map_string_to_array map) {
    return first_entry<Map, mlx_map_string_to_array_iterator>(map);
}

int mlx_map_string_to_array_iterator_free(mlx_map_string_to_array_iterator it) {
    return release<Map::iterator>(it);
}

int mlx_map_string_to_array_iterator_next(const char **key, mlx_array *value,
                                          mlx_map_string_to_array_iterator it) {
    return next_entry<Map>(key, it, [&](const mx::array &found) { put(*value, found); });
}

mlx_map_string_to_string mlx_map_string_to_string_new(void) {
    return make<mlx_map_string_to_string>([] { return TextMap(); });
}

int mlx_map_string_to_string_set(mlx_map_string_to_string *map, const mlx_map_string_to_string src) {
    return assign(map, [&] { return get(src); });
}

int mlx_map_string_to_string_free(mlx_map_string_to_string map) { return release<TextMap>(map); }

int mlx_map_string_to_string_insert(mlx_map_string_to_string map, const char *key, const char *value) {
    return attempt([&] { get(map).insert_or_assign(key, value); });
}

int mlx_map_string_to_string_get(const char **value, const mlx_map_string_to_string map, const char *key) {
    return find_key<TextMap>(map, key, [&](const std::string &found) { *value = found.c_str(); });
}

mlx_map_string_to_string_iterator mlx_map_string_to_string_iterator_new(mlx_map_string_to_string map) {
    return first_entry<TextMap, mlx_map_string_to_string_iterator>(map);
}

int mlx_map_string_to_string_iterator_free(mlx_map_string_to_string_iterator it) {
    return release<TextMap::iterator>(it);
}

int mlx_map_string_to_string_iterator_next(const char **key, const char **value,
                                           mlx_map_string_to_string_iterator it) {
    return next_entry<TextMap>(key, it, [&](const std::string &found) { *value = found.c_str(); });
}

int mlx_load_safetensors(mlx_map_string_to_array *res_0, mlx_map_string_to_string *res_1, const char *file,
                         const mlx_stream s) {
    return attempt([&] {
        auto [arrays, metadata] = mx::load_safetensors(std::string(file), get(s));
        put(*res_0, std::move(arrays));
        put(*res_1, std::move(metadata));
    });
}

int mlx_save_safetensors(const char *file, const mlx_map_string_to_array param,
                         const mlx_map_string_to_string metadata) {
    return attempt([&] { mx::save_safetensors(std::string(file), get(param), get(metadata)); });
}
