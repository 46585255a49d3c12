// One new token for each of R rows: what the kernels of a step share.
//
// rows (3, R): of each row the slot of the caches that it belongs to, its place there, and where its document begins.

#pragma once

#include "vectors.h"

namespace {

struct Slots {
  int64_t count;
  const int64_t *slot, *place, *begin;

  // Nothing is read or written outside of `slots` slots of `places` places.
  Slots(const Tensor& rows, int64_t slots, int64_t places) : count(rows.sizes()[1]) {
    STD_TORCH_CHECK(rows.dim() == 2 && rows.sizes()[0] == 3 && rows.is_contiguous(), "wanted rows (3, R)");
    slot = rows.const_data_ptr<int64_t>();
    place = slot + count;
    begin = place + count;
    for (int64_t r = 0; r < count; ++r)
      STD_TORCH_CHECK(0 <= slot[r] && slot[r] < slots && 0 <= begin[r] && begin[r] <= place[r] && place[r] < places,
                      "row ", r, " is in slot ", slot[r], " at ", place[r], ", of ", slots, " with ", places, " places");
  }
};

}  // namespace
