/* A program without a dynamic linker, for doctor.sh. */
#include <unistd.h>

int main(void)
{
	pause();
	return 0;
}
