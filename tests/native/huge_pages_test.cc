// Who is asked for huge pages, and how often. Nothing here asks the system: addresses are made up.
#include "huge_pages.h"

#include <atomic>
#include <map>

#include "testing.h"

namespace {

using toe::HugePages;
using toe::LargeArray;

constexpr int64_t kPage = toe::kHugePage;

// What the system was asked.
struct System {
  int preferred = 0, collapsed = 0;
  std::map<uintptr_t, int> pages;  // how often for each
  int most = 1 << 30;              // that it can do

  HugePages::Ask Ask() {
    return [this](HugePages::Request request, void* begin, size_t bytes) {
      if (request == HugePages::kPrefer) return ++preferred, true;
      if (bytes != toe::kHugePage || reinterpret_cast<uintptr_t>(begin) % toe::kHugePage != 0)
        Fail("huge pages: asked for a part of a page");
      ++collapsed;
      ++pages[reinterpret_cast<uintptr_t>(begin) / toe::kHugePage];
      return collapsed <= most;
    };
  }

  bool Once() const {
    for (const auto& [page, times] : pages)
      if (times != 1) return false;
    return true;
  }
};

// Neither begins nor ends with a page; `pages` are inside.
LargeArray Array(uint64_t owner, int64_t first_page, int64_t pages) {
  const uintptr_t begin = (first_page * kPage) - 4096;
  return {owner, reinterpret_cast<const void*>(begin), static_cast<size_t>(pages * kPage + 8192),
          nullptr, 0, 0};
}

void Expect(bool holds, const char* what) {
  if (!holds) Fail(std::string("huge pages: ") + what);
}

void TestAllRows() {
  System system;
  HugePages pages(system.Ask());
  const std::vector<LargeArray> arrays = {Array(1, 1000, 10), Array(2, 2000, 25),
                                          Array(3, 3000, 3)};
  pages.Use(arrays);
  Expect(system.preferred == 3 && system.collapsed == 0, "the first step is to prefer them");
  int steps = 0;
  for (int before = -1; before != system.collapsed; ++steps) {
    before = system.collapsed;
    pages.Use(arrays);
    Expect(system.collapsed - before <= toe::kPagesPerStep, "more in a step than allowed");
  }
  Expect(system.preferred == 3, "preferred once");
  Expect(system.collapsed == 38 && system.pages.size() == 38 && system.Once(),
         "each page that is inside, once");
  Expect(steps <= (38 + toe::kPagesPerStep - 1) / toe::kPagesPerStep + 1, "no step without progress");
  for (uint64_t page = 2000; page < 2025; ++page)
    Expect(system.pages.count(page) == 1, "another page than those that are inside");
  // All is done, for more steps than there ever were; nor is a part of them a reason.
  for (int i = 0; i < 3000; ++i) pages.Use({arrays[i % 3]});
  Expect(system.collapsed == 38, "never again");
}

void TestSmallArrays() {
  System system;
  HugePages pages(system.Ask());
  LargeArray small = Array(1, 1000, 10);
  small.bytes = toe::kSmallestLargeArray - 1;
  for (int i = 0; i < 5; ++i) pages.Use({small});
  pages.Use({});
  Expect(system.preferred + system.collapsed == 0, "small arrays have none");
}

void TestOtherBuffers() {
  System system;
  HugePages pages(system.Ask());
  for (int i = 0; i < 10; ++i) pages.Use({Array(1, 1000, 4)});
  Expect(system.collapsed == 4, "all pages of the first buffer");
  for (int i = 0; i < 10; ++i) pages.Use({Array(1, 5000, 4)});
  Expect(system.collapsed == 8 && system.preferred == 2, "all pages of the second one");
  // At the same address, but of something new.
  for (int i = 0; i < 10; ++i) pages.Use({Array(2, 5000, 4)});
  Expect(system.collapsed == 12 && system.preferred == 3, "all pages of the second owner");
  // A new one in each step.
  for (int i = 0; i < 100; ++i) pages.Use({Array(1, 6000 + 10 * (i % 2), 4)});
  Expect(system.collapsed == 12, "none of what does not last");
}

void TestPresentRows() {
  System system;
  HugePages pages(system.Ask());
  const size_t row_bytes = kPage / 4;
  // Rows lie 4096 bytes before the pages, so every fourth crosses a border.
  const std::vector<int64_t> rows = {41, 42, 401, 43};
  LargeArray array = Array(1, 1000, 200);
  array.rows = rows.data(), array.count = 4, array.row_bytes = row_bytes;
  for (int i = 0; i < 50; ++i) pages.Use({array});
  Expect(system.collapsed == 2 && system.pages.count(1010) == 1 && system.pages.count(1100) == 1,
         "only pages of rows that are there");
  const std::vector<int64_t> crossing = {44};
  array.rows = crossing.data(), array.count = 1;
  for (int i = 0; i < 5; ++i) pages.Use({array});
  Expect(system.collapsed == 3 && system.pages.count(1011) == 1, "both pages of a row");
  // Rows that are longer than a page, of which the first begins before all pages.
  LargeArray wide = Array(2, 5000, 50);
  const std::vector<int64_t> first = {0};
  wide.rows = first.data(), wide.count = 1, wide.row_bytes = 3 * kPage;
  for (int i = 0; i < 5; ++i) pages.Use({wide});
  for (uint64_t page = 5000; page < 5003; ++page)
    Expect(system.pages.count(page) == 1, "all pages of a long row");
  Expect(system.collapsed == 6, "no others");
  // The last page.
  const std::vector<int64_t> last = {799};
  array.rows = last.data();
  for (int i = 0; i < 5; ++i) pages.Use({array});
  Expect(system.collapsed == 7 && system.Once(), "the page of the last row");
}

void TestManyRows() {
  System system;
  HugePages pages(system.Ask());
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < 100000; row += 3) rows.push_back(row);
  LargeArray weights = Array(1, 1000, 100), slot = Array(2, 3000, 100);
  for (LargeArray* array : {&weights, &slot})
    array->rows = rows.data(), array->count = static_cast<int64_t>(rows.size()),
    array->row_bytes = array->bytes / 100000;
  for (int i = 0; i < 3000 && system.collapsed < 200; ++i) {
    const int before = system.collapsed;
    pages.Use({weights, slot});
    Expect(system.collapsed - before <= toe::kPagesPerStep, "more in a step than allowed");
    int of_slot = 0;
    for (const auto& [page, times] : system.pages) of_slot += page >= 3000;
    Expect(std::abs(2 * of_slot - system.collapsed) <= 8 || system.collapsed > 150,
           "an array waits for the others");
  }
  Expect(system.pages.size() == 200 && system.Once(), "after some steps, all");
}

void TestFailures() {
  System system;
  system.most = 6;
  HugePages pages(system.Ask());
  for (int i = 0; i < 100; ++i) pages.Use({Array(1, 1000, 1000)});
  Expect(system.collapsed == 6 + 4, "gives up where there are no free ones");
  system.most = 1 << 30;
  for (int i = 0; i < 5; ++i) pages.Use({Array(2, 3000, 8)});
  Expect(system.collapsed == 10 + 8, "another array has its own try");
}

void TestManyArrays() {
  System system;
  HugePages pages(system.Ask());
  std::vector<LargeArray> arrays;
  for (int64_t i = 0; i < 6000; ++i) arrays.push_back(Array(i, 1000 + 10 * i, 2));
  for (int i = 0; i < 6; ++i) pages.Use(arrays);
  Expect(system.preferred == 6000 && system.collapsed == 5 * toe::kPagesPerStep && system.Once(),
         "many arrays are not begun again in each step");
  // What is gone is forgotten some time.
  for (int64_t i = 0; i < 6000; ++i) pages.Use({Array(10000 + i, 1000, 2)});
  const int before = system.collapsed;
  pages.Forget();
  for (int i = 0; i < 3; ++i) pages.Use({arrays[0]});
  Expect(system.collapsed == before + 2, "after all is forgotten, anew");
}

// While one thread asks, the others take their steps without waiting.
void TestThreads() {
  std::atomic<bool> entered{false}, leave{false};
  std::atomic<int> asked{0};
  HugePages pages([&](HugePages::Request request, void*, size_t) {
    if (request == HugePages::kPrefer) return true;
    ++asked;
    entered = true;
    while (!leave) std::this_thread::yield();
    return true;
  });
  pages.Use({Array(1, 1000, 8)});
  std::thread slow([&] { pages.Use({Array(1, 1000, 8)}); });
  while (!entered) std::this_thread::yield();
  for (int i = 0; i < 100; ++i) pages.Use({Array(1, 1000, 8), Array(2, 3000, 8)});
  Expect(asked == 1, "two threads at once");
  leave = true;
  slow.join();

  System system;
  HugePages shared(system.Ask());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&shared, t] {
      for (int i = 0; i < 2000; ++i) shared.Use({Array(t % 2, 1000 * (t % 2 + 1), 100)});
    });
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 60; ++i) shared.Use({Array(0, 1000, 100), Array(1, 2000, 100)});
  Expect(system.collapsed == 200 && system.Once(), "threads share what is to do");
}

// The real one: memory that is there, and that is gone by now, is left as it is.
void TestSystem() {
  std::vector<char> memory(8 * kPage, 7);
  for (int i = 0; i < 10; ++i)
    toe::UseHugePages({{1, memory.data(), memory.size(), nullptr, 0, 0}});
  for (char byte : memory)
    if (byte != 7) return Fail("huge pages: a request changes memory");
  const LargeArray gone{2, memory.data(), memory.size(), nullptr, 0, 0};
  memory = {};
  memory.shrink_to_fit();
  for (int i = 0; i < 10; ++i) toe::UseHugePages({gone});
}

}  // namespace

void TestHugePages() {
  TestAllRows();
  TestSmallArrays();
  TestOtherBuffers();
  TestPresentRows();
  TestManyRows();
  TestFailures();
  TestManyArrays();
  TestThreads();
  TestSystem();
  std::printf("huge pages\n");
}
